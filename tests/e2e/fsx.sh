#!/usr/bin/env bash
# Goal: reads give what was written, whatever the order of operations. Method: fsx with all operations that the mount has, one file and
# one fixed seed each; memory maps included. HAYATE_E2E_ROUNDS multiplies the seeds.
. "$(dirname "$0")/lib.sh"
FSX=${FSX:-$ROOT/target/tools/bin/fsx}
[ -x "$FSX" ] || skip "fsx is not installed (cargo install --locked fsx --version 0.3.2 --root target/tools)"
need_fuse
begin fsx
OPERATIONS=3000

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
seed() {
    (cd "$BOX" && timeout -k 5 300 "$FSX" -q -f "$BOX/fsx.toml" -N $OPERATIONS -S "$1" -P "$BOX" "$M/file$1") >"$BOX/fsx$1.out" 2>&1 \
        || fail "fsx, seed $1 (repeat: fsx -f fsx.toml -N $OPERATIONS -S $1):
$(tail -30 "$BOX/fsx$1.out")"
}
all_seeds() { local n; for ((n = 1; n <= 4 * ${HAYATE_E2E_ROUNDS:-1}; n++)); do seed $n; done; }
timed "fsx, $((4 * ${HAYATE_E2E_ROUNDS:-1})) seeds of $OPERATIONS operations" all_seeds
mounted "$M"
python3 "$E2E/manifest.py" "$M" >"$BOX/shown"
drain c
python3 "$E2E/manifest.py" "$BOX/c/tier" | diff "$BOX/shown" - || fail "the tier is not what the mount showed"
passed
