#!/usr/bin/env bash
# Goal: what the kernel and programs may rely on, on one mount and between two mounts of one cluster (as on two nodes).
# Method: semantics.py, names.py on one mount, two_mounts.py and holes.py on two, read_only.py on one with --read-only; each line they print is one check.
. "$(dirname "$0")/lib.sh"
need python3
is_root || skip "setuid bits, device files and other users need root"
need_fuse
begin semantics

# check SCRIPT ARGUMENT...
check() {
    local script=$1; shift
    timeout -k 5 120 python3 "$E2E/$script" "$@" >"$BOX/$script.out" 2>&1 || fail "$script:
$(grep -v '^ok ' "$BOX/$script.out" | head -40)"
    note "$script: $(grep -c '^ok ' "$BOX/$script.out") checks"
}

cluster_up c
mount_on c "$BOX/c/m" --allow-other
mount_on c "$BOX/c/other" --allow-other
mount_on c "$BOX/c/fixed" --read-only
chmod 777 "$BOX/c/m"
timed "one mount" check semantics.py "$BOX/c/m"
timed "names across servers" check names.py "$BOX/c/m"
mounted "$BOX/c/m"
timed "two mounts" check two_mounts.py "$BOX/c/m" "$BOX/c/other"
timed "holes" check holes.py "$BOX/c/m" "$BOX/c/other"
timed "read-only mount" check read_only.py "$BOX/c/m" "$BOX/c/fixed"
mounted "$BOX/c/m"
mounted "$BOX/c/other"
mounted "$BOX/c/fixed"
passed
