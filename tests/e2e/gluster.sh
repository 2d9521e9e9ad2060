#!/usr/bin/env bash
# Goal: a burst reaches a GlusterFS as tier 2 whole, though servers of Hayate (and, in the long tier, a brick of GlusterFS) are killed by SIGKILL in the middle
# of the flush.
# Method: a volume of two bricks, its daemons and its client in namespaces of their own (mounts, network, processes: nothing of it outlives the test, and
# two of the same do not meet). A burst of one shared file, files of each process and small files, with odd attributes among them; killed once bytes are on
# their way, started again, drained; then diff -r and a manifest. A second cluster reads the tree through and changes it.
. "$(dirname "$0")/lib.sh"
if [ -z "${HAYATE_E2E_NAMESPACE:-}" ]; then
    is_root || skip "GlusterFS and its namespaces take root"
    need unshare ip
    need_fuse
    if ! command -v glusterd >/dev/null; then
        command -v apt-get >/dev/null || skip "glusterd is not installed (package glusterfs-server)"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get install -y -qq --no-install-recommends glusterfs-server || { apt-get update -qq && apt-get install -y -qq --no-install-recommends glusterfs-server; }; } \
            >/dev/null 2>&1 || skip "glusterd is not installed, and apt-get cannot install it (package glusterfs-server)"
    fi
    # A new session, because what kills a process group must not kill the first process of the namespace alone.
    HAYATE_E2E_NAMESPACE=1 exec unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private "$0"
fi
begin gluster
# Killed neighbours, and a tier whose brick is away.
expect_log 'WARN fs_server::flush: not in the shared tier yet; it is tried again'
expect_log 'WARN fs_server::flush: what staging needed cannot be removed from the shared tier yet'
expect_log 'WARN fs_server::store::recover'
expect_log 'WARN fs_server::flush: the shared tier cannot be used yet'
VOLUME=$BOX/volume
BRICK_HOST=brick.hayate.test

# GlusterFS refuses loopback addresses and their names as hosts of bricks.
namespaces() {
    ip link set lo up
    ip addr add 10.77.0.1/32 dev lo
    { cat /etc/hosts; echo "10.77.0.1 $BRICK_HOST"; } >"$BOX/hosts"
    mount --bind "$BOX/hosts" /etc/hosts
    local dir
    for dir in /var/lib/glusterd /var/log/glusterfs /run; do
        mkdir -p "$dir" "$BOX/private$dir"
        mount --bind "$BOX/private$dir" "$dir"
    done
    mkdir -p /run/gluster
}

gluster_() { timeout 120 gluster --mode=script "$@" >>"$BOX/gluster.log" 2>&1 || fail "gluster $*: $(tail -3 "$BOX/gluster.log")"; }

quietly() { "$@" >/dev/null 2>&1; }

start_gluster() {
    mkdir -p "$BOX/brick0" "$BOX/brick1" "$VOLUME"
    glusterd --pid-file "$BOX/glusterd.pid" || fail "glusterd does not start: $(tail -3 /var/log/glusterfs/glusterd.log)"
    until_true 60 "glusterd" quietly gluster --mode=script volume list
    gluster_ volume create hayate "$BRICK_HOST:$BOX/brick0" "$BRICK_HOST:$BOX/brick1" force
    gluster_ volume start hayate
    glusterfs --volfile-server="$BRICK_HOST" --volfile-id=hayate --acl "$VOLUME" || fail "the volume cannot be mounted"
    until_true 60 "the volume" quietly mountpoint -q "$VOLUME"
    mkdir "$VOLUME/tier"
}

# make_burst DIR: 320 MiB in one large file and eight others, and 600 small files.
make_burst() {
    python3 - "$1" <<'PYTHON'
import os, random, sys
from pathlib import Path

top, chance = Path(sys.argv[1]), random.Random(6)
def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(chance.randbytes(size))
write(top / "shared", 128 << 20)
for number in range(8):
    write(top / f"ranks/{number}", (24 << 20) + number * 4097)
for number in range(600):
    write(top / f"small/{number % 7}/{number}", number * 37)
with (top / "sparse").open("wb") as out:
    out.truncate(64 << 20)
    out.seek(40 << 20)
    out.write(b"in the middle")
os.link(top / "ranks/0", top / "linked")
os.symlink("ranks/1", top / "pointer")
os.chmod(top / "small/3", 0o750)
os.setxattr(top / "ranks/2", "user.kind", b"a rank's")
PYTHON
}

# copied: bytes that servers wrote to the tier since they started.
copied() {
    h c status --json 2>/dev/null | python3 -c 'import json, sys
print(sum(s["status"]["flush"]["copied_bytes"] for s in json.load(sys.stdin)["servers"] if s.get("status")))'
}

under_way() { [ "$(copied)" -gt $((8 << 20)) ]; }

kill_servers() {
    local server pid
    for server in "$@"; do
        pid=$(server_pid c "$server")
        runs "$pid" "$(job c)" || fail "server $server does not run"
        kill -KILL "$pid"
    done
    h c up --restart >"$BOX/restart.out" 2>&1 || fail "up --restart after killing $*: $(cat "$BOX/restart.out")"
}

kill_brick() {
    local pid
    pid=$(pgrep -f "glusterfsd .*--brick-name $BOX/brick1" | head -1)
    [ -n "$pid" ] || fail "brick 1 has no process"
    kill -KILL "$pid"
    # How long it is away.
    sleep 3
    gluster_ volume start hayate force
    until_true 60 "the volume with both bricks" quietly whole_volume
}

# Files lie on bricks by the hash of their names: with both bricks all of these can be made.
whole_volume() {
    local number
    mkdir -p "$VOLUME/probe" || return 1
    for number in 1 2 3 4 5 6 7 8 9 10; do touch "$VOLUME/probe/$number" || return 1; done
    rm -r "$VOLUME/probe"
}

namespaces
timed "a GlusterFS of two bricks" start_gluster
make_burst "$BOX/source"
CLUSTERS+=(c)
mkdir -p "$BOX/c/m"
# Slow enough that there is a middle to kill in.
h c up --nodes 4 --store "$BOX/c/store" --tier "$VOLUME/tier" --flush-bandwidth 6M >/dev/null
keep_logs c
mount_on c "$BOX/c/m"
timed "burst" cp -a "$BOX/source/." "$BOX/c/m/"
until_true 60 "bytes under way" quietly under_way
kill_servers 1
kill_servers 0 2
[ -z "${HAYATE_TEST_LONG:-}" ] || kill_brick
kill_servers 0 1 2 3
pending=$(h c status --json | python3 -c 'import json, sys; print(sum(s["status"]["flush"]["pending_names"] for s in json.load(sys.stdin)["servers"]))')
[ "$pending" -gt 0 ] || fail "all was flushed before the last kill: nothing of it is shown"
note "names that waited when the last servers were killed: $pending"
mounted "$BOX/c/m"
same_tree "$BOX/source" "$BOX/c/m" "the mount differs from the source"
timed "drain" drain c
mountpoint -q "$VOLUME" || fail "the volume is not mounted any more"
same_tree "$BOX/source" "$VOLUME/tier" "the tier differs from the source"
# A brick that was away keeps the times that its directories had before.
[ -n "${HAYATE_TEST_LONG:-}" ] || same_manifest "$BOX/source" "$VOLUME/tier" "the tier differs from the source"

# Another job reads through what is there, and changes some of it.
CLUSTERS+=(d)
mkdir -p "$BOX/d/m"
h d up --nodes 2 --store "$BOX/d/store" --tier "$VOLUME/tier" >/dev/null
keep_logs d
mount_on d "$BOX/d/m"
# Hard links are files of their own when they are read through.
difference=$(diff -r --no-dereference "$BOX/source" "$BOX/d/m" 2>&1 | head) || true
[ -z "$difference" ] || fail "what is read through differs from the source: $difference"
for top in "$BOX/source" "$BOX/d/m"; do
    printf short >"$top/ranks/3"
    rm -r "$top/small/1"
    mv "$top/ranks/4" "$top/small/2/moved"
    dd if=/dev/zero of="$top/shared" bs=1M seek=30 count=3 conv=notrunc status=none
    truncate -s 1000000 "$top/ranks/5"
done
timed "drain of the changes" drain d
difference=$(diff -r --no-dereference "$BOX/source" "$VOLUME/tier" 2>&1 | head) || true
[ -z "$difference" ] || fail "the tier differs after the changes: $difference"
umount "$VOLUME"
passed
