#!/usr/bin/env bash
# Goal: a file that every node reads at once is, through mounts, what docs/semantics.md says, while others write, replace and remove it.
# Method: six servers, a mount by each (five that ask always, one with the default time-outs), and hot.py on them.
. "$(dirname "$0")/lib.sh"
need python3
need_fuse
begin hot

NODES=6 cluster_up c
mount_through() { HAYATE_GATEWAY=$1 mount_on c "$BOX/c/$2" "${@:3}"; }
mount_through 0 default
for server in 1 2 3 4 5; do mount_through $server strict-$server --attr-timeout 0 --entry-timeout 0; done
timed "hot files" timeout -k 5 300 python3 "$E2E/hot.py" "$HAYATE" "$BOX/c/c.toml" "$BOX/c/default" "$BOX"/c/strict-* >"$BOX/hot.out" 2>&1 ||
    fail "hot.py:
$(grep -v '^ok ' "$BOX/hot.out" | head -40)"
note "$(grep -c '^ok ' "$BOX/hot.out") checks"
for mount in default strict-1 strict-2 strict-3 strict-4 strict-5; do mounted "$BOX/c/$mount"; done
passed
