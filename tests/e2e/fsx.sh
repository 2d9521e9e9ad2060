#!/usr/bin/env bash
# Goal: reads give what was written, whatever the order of operations, on one mount and on two at once. Method: fsx with all operations that the
# mount has, one file and one fixed seed each, memory maps included; then fsx_two.py, which has a file open on two mounts. Long: a million
# operations on one mount, 200,000 on two.
. "$(dirname "$0")/lib.sh"
FSX=${FSX:-$ROOT/target/tools/bin/fsx}
[ -x "$FSX" ] || skip "fsx is not installed (cargo install --locked fsx --version 0.3.2 --root target/tools)"
need_fuse
begin fsx
SEEDS=4 OPERATIONS=3000 ON_TWO=6000
[ -z "${HAYATE_TEST_LONG:-}" ] || { SEEDS=20 OPERATIONS=50000 ON_TWO=200000; }

cat >"$BOX/fsx.toml" <<'TOML'
# Past two chunks, so that servers change within an operation.
flen = 3000000
[opsize]
max = 200000
[weights]
truncate = 1
fsync = 0.5
fdatasync = 0.5
sendfile = 0.5
posix_fallocate = 0.5
punch_hole = 1
copy_file_range = 0.5
close_open = 1
invalidate = 0.5
TOML

cluster_up c
M=$BOX/c/m
mount_on c "$M"
# seed N [MOUNT]
seed() {
    local at=${2:-$M}
    (cd "$BOX" && timeout -k 5 900 "$FSX" -q -f "$BOX/fsx.toml" -N $OPERATIONS -S "$1" -P "$BOX" "$at/file$1") >"$BOX/fsx$1.out" 2>&1 \
        || fail "fsx, seed $1 (repeat: fsx -f fsx.toml -N $OPERATIONS -S $1):
$(tail -30 "$BOX/fsx$1.out")"
}
all_seeds() { local n; for ((n = 1; n <= SEEDS; n++)); do seed $n; done; }
# two MODE MOUNT OTHER-MOUNT
two() {
    python3 "$E2E/fsx_two.py" "$2" "$3" "$1" $ON_TWO "${HAYATE_E2E_SEED:-1}" >"$BOX/two.out" 2>&1 || fail "two mounts, $1: $(cat "$BOX/two.out")"
}
timed "fsx, $SEEDS seeds of $OPERATIONS operations" all_seeds
mount_on c "$BOX/c/held" --writeback
timed "fsx on a mount that holds writes back" seed 99 "$BOX/c/held"
cmp "$BOX/c/held/file99" "$M/file99" || fail "another mount reads something else than the mount that held writes back"
for name in one other; do mount_on c "$BOX/c/strict-$name" --attr-timeout 0 --entry-timeout 0; done
mount_on c "$BOX/c/other"
timed "two mounts that ask always, $ON_TWO operations" two strict "$BOX/c/strict-one" "$BOX/c/strict-other"
timed "the same with O_DIRECT" two direct "$BOX/c/strict-one" "$BOX/c/strict-other"
timed "two mounts that remember attributes, O_DIRECT" two fixed "$M" "$BOX/c/other"
for name in "$M" "$BOX"/c/held "$BOX"/c/other "$BOX"/c/strict-*; do mounted "$name"; done
python3 "$E2E/manifest.py" "$M" >"$BOX/shown"
drain c
python3 "$E2E/manifest.py" "$BOX/c/tier" | diff "$BOX/shown" - || fail "the tier is not what the mount showed"
passed
