#!/usr/bin/env bash
# Goal: 24 hours in miniature: cycles of write, flush and delete, together many times what the device holds, end each with the same free
# space, and never see a full device; a checkpoint that is kept across the cycles stays whole.
# Method: a small ext4 on a loop device as the node's storage; each cycle fills two thirds of it with large and small files, compares the
# tier, removes everything, and waits until the space is back. HAYATE_E2E_ROUNDS multiplies the cycles.
. "$(dirname "$0")/lib.sh"
need mkfs.ext4 losetup diff
is_root || skip "a small file system can only be mounted by root"
begin cycles
MIB=768
CYCLES=$((8 * ${HAYATE_E2E_ROUNDS:-2}))
# What may differ between cycles: journals of the key-value store, and segments that are not worth emptying.
SLACK_MIB=48

# make_device: the file system; detached when unmounted.
make_device() {
    truncate -s ${MIB}M "$BOX/disk"
    mkfs.ext4 -q -m 0 "$BOX/disk"
    mkdir "$BOX/nvme"
    mount -o loop "$BOX/disk" "$BOX/nvme" || skip "no loop device can be mounted"
}

# source_tree: 4 large files, 400 of 200 KiB, 2,000 of 3 KiB: 500 MiB.
source_tree() {
    mkdir -p "$BOX/source/small"
    local n
    for n in 1 2 3 4; do head -c $((104 << 20)) /dev/urandom >"$BOX/source/large$n"; done
    head -c $((80 << 20)) /dev/urandom | split -b 200K -a 4 - "$BOX/source/small/m"
    head -c $((6 << 20)) /dev/urandom | split -b 3K -a 4 - "$BOX/source/small/s"
}

free_mib() { df --output=avail -BM "$BOX/nvme" | tail -1 | tr -dc 0-9; }

# comes_back MIB: waits until so much is free.
comes_back() {
    local want=$1 until=$((SECONDS + 60))
    while [ "$(free_mib)" -lt "$want" ]; do
        [ $SECONDS -lt $until ] || fail "cycle $cycle: $(free_mib) MiB are free a minute after everything was removed, not $want"
        sleep 0.2
    done
}

make_device
source_tree
CLUSTERS+=(c)
mkdir -p "$BOX/c/tier"
h c up --nodes 1 --store "$BOX/nvme" --tier "$BOX/c/tier" --memory 128M ${HAYATE_E2E_IO:+--io $HAYATE_E2E_IO} >/dev/null
keep_logs c
head -c $((5 << 20)) /dev/urandom >"$BOX/kept"
h c cp "$BOX/kept" h:/kept
first= least=999999
for cycle in $(seq $CYCLES); do
    h c cp -r "$BOX/source" h:/run || fail "cycle $cycle: writing"
    h c flush --wait >/dev/null
    [ "$(free_mib)" -ge "$least" ] || least=$(free_mib)
    diff -r "$BOX/source" "$BOX/c/tier/run" >/dev/null || fail "cycle $cycle: the tier differs"
    h c rm -r /run
    # The first cycles make what stays: journals, tables of the key-value store.
    if [ "$cycle" -le 2 ]; then
        comes_back $((MIB * 2 / 3))
        first=$(free_mib)
    else
        comes_back $((first - SLACK_MIB))
    fi
    h c flush --wait >/dev/null
    [ ! -e "$BOX/c/tier/run" ] || fail "cycle $cycle: what was removed is in the tier"
done
h c cat /kept | cmp - "$BOX/kept" || fail "the kept file differs"
h c scrub >"$BOX/scrub" || fail "damage: $(cat "$BOX/scrub")"
note "$CYCLES cycles of 500 MiB on $MIB MiB: $first MiB free after the second, $(free_mib) after the last, $least at least in between"
h c status --json | python3 -c '
import json, sys
chunks = json.load(sys.stdin)["servers"][0]["status"]["chunks"]
print("   written to the log %d MiB, of it copied by compaction %d MiB" % (chunks["written_bytes"] >> 20, chunks["compacted_bytes"] >> 20))'
drain c
passed
