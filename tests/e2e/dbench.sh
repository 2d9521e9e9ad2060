#!/usr/bin/env bash
# Goal: the operations of a file server's clients work side by side. Method: dbench replays what it recorded of NetBench, by several clients on two
# mounts at once, and ends at the first answer that is not the recorded one. HAYATE_E2E_ROUNDS multiplies the time.
. "$(dirname "$0")/lib.sh"
need dbench
need_fuse
begin dbench
M=$BOX/c/m
SECONDS_LONG=$((6 * ${HAYATE_E2E_ROUNDS:-1}))
LOAD=/usr/share/dbench/client.txt
[ -e "$LOAD" ] || skip "dbench has no load file at $LOAD"

# clients MOUNT: three of them.
clients() {
    mkdir -p "$1/by-${1##*/}"
    timeout -k 5 $((SECONDS_LONG + 90)) dbench -c "$LOAD" -D "$1/by-${1##*/}" -t $SECONDS_LONG --skip-cleanup 3 >"$BOX/dbench-${1##*/}.out" 2>&1
}

cluster_up c
mount_on c "$M"
mount_on c "$BOX/c/other"
clients "$M" & FIRST=$!
clients "$BOX/c/other" & SECOND=$!
CHILDREN+=($FIRST $SECOND)
for one in "$FIRST:m" "$SECOND:other"; do
    wait "${one%:*}" || fail "dbench on ${one#*:}: $(tail -15 "$BOX/dbench-${one#*:}.out")"
    said=$(grep '^Throughput' "$BOX/dbench-${one#*:}.out") || fail "dbench on ${one#*:}: $(tail -5 "$BOX/dbench-${one#*:}.out")"
    ! grep -v 'barrier semaphore' "$BOX/dbench-${one#*:}.out" | grep -E 'failed|ERROR|expected' || fail "dbench on ${one#*:}"
    note "dbench on ${one#*:}: $said"
done
CHILDREN=()
python3 "$E2E/manifest.py" "$M" >"$BOX/shown"
drain c
python3 "$E2E/manifest.py" "$BOX/c/tier" | diff "$BOX/shown" - || fail "the tier is not what the mount showed"
passed
