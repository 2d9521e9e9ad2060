#!/usr/bin/env bash
# Goal: attributes and data are as POSIX and Linux have them, and what is not offered says so.
# Method: posix.py at two mounts of one cluster; acl.py does the same at a mount and on a local file system; positions.py lists a directory of 12,000
# entries (100,000 with HAYATE_TEST_LONG), before and after a new mount and a restart of all servers. The drained tier has the same lists.
. "$(dirname "$0")/lib.sh"
need python3 setfacl getfacl rsync
is_root || skip "several users need root"
need_fuse
begin posix

# check SCRIPT ARGUMENT...
check() {
    local script=$1; shift
    timeout -k 5 "$limit" python3 "$E2E/$script" "$@" >"$BOX/$script.out" 2>&1 || fail "$script:
$(grep -v '^ok ' "$BOX/$script.out" | head -40)"
    note "$script: $(grep -c '^ok ' "$BOX/$script.out") checks"
    sed -n 's/^ok   \(making takes\|listing takes\)/   \1/p' "$BOX/$script.out"
}

entries=${HAYATE_TEST_LONG:+100000}
entries=${entries:-12000}
limit=${HAYATE_TEST_LONG:+400}
limit=${limit:-120}

# posix.py sets attributes of 64 KiB, which no ext4 holds.
expect_log 'WARN fs_server::tier::posix: .* does not take this extended attribute'

cluster_up c
mount_on c "$BOX/c/m" --allow-other
mount_on c "$BOX/c/other" --allow-other
timed "attributes and data" check posix.py "$BOX/c/m" "$BOX/c/other"

mkdir "$BOX/c/m/lists" "$BOX/local"
setfacl -m u:1:r "$BOX/local" 2>/dev/null && setfacl -b "$BOX/local" || fail "the local file system has no access control lists to compare with"
timed "lists" check acl.py "$BOX/c/m/lists" "$BOX/local" ${HAYATE_ACL_SEED:-"$RANDOM"} ${HAYATE_TEST_LONG:+1500}
mounted "$BOX/c/m"

# A pipe has its list, too, and diff(1) does not know pipes.
mkdir "$BOX/shown"
cp -a "$BOX/c/m/lists/." "$BOX/shown/"
umount "$BOX/c/other"
drain c
difference=$(rsync -aHAXn --delete --itemize-changes "$BOX/shown/" "$BOX/c/tier/lists/" 2>&1 | head -20) || true
[ -z "$difference" ] || fail "the tier's lists: $difference"

# Without a tier: this is not about flushing so many files.
CLUSTERS+=(large)
mkdir -p "$BOX/large"
h large up --nodes 4 --store "$BOX/large/store" ${HAYATE_E2E_IO:+--io "$HAYATE_E2E_IO"} >/dev/null
mount_on large "$BOX/large/m" --allow-other
timed "a large directory" check positions.py "$BOX/large/m" "$entries" "$BOX/inodes"
umount "$BOX/large/m"
for pid in $(server_pids large); do kill -KILL "$pid"; done
h large up --restart >/dev/null
mount_on large "$BOX/large/m" --allow-other
timed "after a restart" check positions.py "$BOX/large/m" "$entries" "$BOX/inodes"
timed "positions" check positions.py "$BOX/large/m" "$entries"
mounted "$BOX/large/m"
passed
