#!/usr/bin/env bash
# Goal: a burst reaches a CephFS as tier 2 whole, though servers of Hayate, the daemon that keeps Ceph's data and the one that keeps its names are killed by SIGKILL
# in the middle of the flush.
# Method: as `gluster`, with a Ceph of one monitor, one manager, one data daemon on a sparse file and one metadata daemon, mounted by ceph-fuse.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/tier2.sh"
needs_root_and ceph-mon,ceph-mgr,ceph-osd,ceph-mds,ceph-fuse,ceph-common ceph-mon ceph-mgr ceph-osd ceph-mds ceph-fuse ceph monmaptool
enter_namespaces
begin_tier2 cephfs
export CEPH_CONF=$BOX/ceph.conf
MONITOR='[v2:127.0.0.1:3300,v1:127.0.0.1:6789]'

write_conf() {
    local part
    mkdir -p "$BOX/ceph/run" "$BOX/ceph/log"
    # Sockets have short paths.
    mount --bind "$BOX/ceph/run" /run
    mkdir /run/ceph
    for part in mon mgr osd mds; do mkdir "$BOX/ceph/$part"; done
    cat >"$CEPH_CONF" <<CONF
[global]
fsid = $1
mon host = $MONITOR
auth cluster required = none
auth service required = none
auth client required = none
run dir = /run/ceph
admin socket = /run/ceph/\$name.\$pid.asok
pid file = /run/ceph/\$name.pid
log file = $BOX/ceph/log/\$name.log
crash dir = $BOX/ceph/log
mon data = $BOX/ceph/mon
mgr data = $BOX/ceph/mgr
osd data = $BOX/ceph/osd
mds data = $BOX/ceph/mds
# Of a test's disk there may be little left.
mon data avail warn = 2
mon data avail crit = 1
osd pool default size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd objectstore = bluestore
bluestore block size = $((8 << 30))
bluestore block wal create = false
CONF
}

# ceph_ WORDS...: a command of Ceph's that must succeed.
ceph_() { timeout 120 "$@" >>"$BOX/ceph/commands.log" 2>&1 || fail "$*: $(tail -3 "$BOX/ceph/commands.log")"; }

says() { local text=$1; shift; timeout 60 ceph "$@" 2>/dev/null | grep -q "$text"; }

start_ceph() {
    local cluster osd
    cluster=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
    write_conf "$cluster"
    ceph_ monmaptool --create --fsid "$cluster" --addv a "$MONITOR" "$BOX/ceph/monmap"
    ceph_ ceph-mon -i a --mkfs --monmap "$BOX/ceph/monmap"
    ceph_ ceph-mon -i a
    ceph_ ceph-mgr -i a
    ceph_ ceph osd new "$osd"
    ceph_ ceph-osd -i 0 --mkfs --osd-uuid "$osd"
    ceph_ ceph-osd -i 0
    ceph_ ceph osd pool create names 8
    ceph_ ceph osd pool create data 8
    ceph_ ceph fs new hayate names data
    ceph_ ceph-mds -i a
    until_true 60 "the metadata daemon" says up:active mds stat
    ceph_ ceph-fuse "$VOLUME"
    mounted "$VOLUME"
    mkdir "$VOLUME/tier"
}

# Data are away for some seconds; then names are, until the new daemon has read the journal and the client has found it.
kill_ceph() {
    kill -KILL "$(cat /run/ceph/osd.0.pid)"
    sleep 3
    ceph_ ceph-osd -i 0
    until_true 120 "the data daemon" says '1 up' osd stat
    kill -KILL "$(cat /run/ceph/mds.a.pid)"
    ceph_ ceph-mds -i a
    # Takes the new one's answer.
    timeout 120 mkdir "$VOLUME/probe" || fail "the new metadata daemon does not answer: $(ceph -s | head -20)"
    rmdir "$VOLUME/probe"
}

timed "a CephFS" start_ceph
kill_in_the_middle kill_ceph
same_tree "$BOX/source" "$VOLUME/tier" "the tier differs from the source"
same_manifest "$BOX/source" "$VOLUME/tier" "the tier differs from the source"
read_through_and_change
umount "$VOLUME"
passed
