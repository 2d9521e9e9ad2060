#!/usr/bin/env bash
# Goal: a mount whose process was killed is cleaned up by mounting again, and nothing that was closed is lost.
# Method: SIGKILL of the mount process, idle and in the middle of writing, several times.
. "$(dirname "$0")/lib.sh"
# Chunks past the page cache here, through it in most other tests.
HAYATE_E2E_IO=${HAYATE_E2E_IO:-direct}
need python3
need_fuse
begin dead-mount
M=$BOX/c/m

# The process that serves the mount, as `hayate status` tells.
mount_pid() { h c status | sed -n "s|^mounted at $M (process \([0-9]*\))$|\1|p"; }

kill_mount() {
    local pid
    pid=$(mount_pid)
    [ -n "$pid" ] || fail "hayate status names no mount at $M"
    kill -KILL "$pid"
    # Until the kernel knows, at most some milliseconds.
    timeout 10 bash -c "while stat '$M' >/dev/null 2>&1; do sleep 0.02; done" || fail "the mount lives on without its process"
}

cluster_up c
mount_on c "$M"
for round in 1 2 3; do
    rm -f "$BOX/stop"
    python3 "$E2E/acked_writer.py" "$M/files$round" "$BOX/acked$round" "$BOX/stop" $round >"$BOX/writer$round.out" 2>&1 & writer=$!
    CHILDREN=($writer)
    # Something must have been acknowledged before the kill.
    timeout 60 bash -c "until grep -qs '\"end\"' '$BOX/acked$round'; do sleep 0.02; done" || fail "nothing is written"
    kill_mount
    touch "$BOX/stop"
    # It gets an error, maybe one that it does not take for clean: its mount is gone.
    wait $writer || true
    CHILDREN=()
    mount_on c "$M"
    for log in "$BOX"/acked*; do
        said=$(python3 "$E2E/acked_writer.py" --verify "$M/files${log##*/acked}" "$log" 2>&1) || fail "after kill $round: $said"
    done
    note "after kill $round: $said"
done
kill_mount
# A dead mount does not keep the cluster from being drained.
timed "drain with a dead mount" drain c
for log in "$BOX"/acked*; do
    said=$(python3 "$E2E/acked_writer.py" --verify "$BOX/c/tier/files${log##*/acked}" "$log" 2>&1) || fail "in the tier: $said"
done
passed
