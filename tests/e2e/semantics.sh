#!/usr/bin/env bash
# Goal: what the kernel and programs may rely on, on one mount and between two mounts of one cluster (as on two nodes).
# Method: semantics.py, names.py on one mount, two_mounts.py and holes.py on two, coherence.py on two and two that ask always, read_only.py on one with
# --read-only; each line they print is one check. Every numbered sentence of docs/semantics.md must have been checked.
. "$(dirname "$0")/lib.sh"
need python3
is_root || skip "setuid bits, device files and other users need root"
need_fuse
begin semantics
# holes.py makes a file of a pebibyte, which the file system below the tier cannot hold.
expect_log 'WARN fs_server::flush(::[a-z]+)?: not in the shared tier yet; it is tried again name=.*sparse.* reason=.*File too large'
expect_log 'WARN fs_server::flush::account: the shared tier refuses this file again and again: .*sparse'

# check SCRIPT ARGUMENT...
check() {
    local script=$1; shift
    timeout -k 5 120 python3 "$E2E/$script" "$@" >"$BOX/$script.out" 2>&1 || fail "$script:
$(grep -v '^ok ' "$BOX/$script.out" | head -40)"
    note "$script: $(grep -c '^ok ' "$BOX/$script.out") checks"
}

# every_sentence: what coherence.py checked is what the document says, all of it.
every_sentence() {
    local said checked
    said=$(sed -n 's/^| \([SCD][0-9]*\) |.*/\1/p' "$ROOT/docs/semantics.md" | sort -u)
    checked=$(sed -n 's/^ok *\([SCD][0-9]*\) .*/\1/p' "$BOX/coherence.py.out" | sort -u)
    [ -n "$said" ] && [ "$said" = "$checked" ] || fail "sentences of docs/semantics.md and checks differ: $(diff <(echo "$said") <(echo "$checked") | tr '\n' ' ')"
    note "$(wc -l <<<"$said") sentences about two nodes, all checked"
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
for name in strict strict-other; do mount_on c "$BOX/c/$name" --allow-other --attr-timeout 0 --entry-timeout 0; done
timed "two nodes" check coherence.py "$BOX/c/strict" "$BOX/c/strict-other" "$BOX/c/m" "$BOX/c/other"
every_sentence
timed "read-only mount" check read_only.py "$BOX/c/m" "$BOX/c/fixed"
mounted "$BOX/c/m"
mounted "$BOX/c/other"
mounted "$BOX/c/fixed"
passed
