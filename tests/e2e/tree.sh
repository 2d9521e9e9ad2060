#!/usr/bin/env bash
# Goal: a large source tree keeps everything on its way onto a mount and from there to the shared tier.
# Method: tar x of at least FILES files on four servers; diff and rsync against the source; drain; the same with the tier.
. "$(dirname "$0")/lib.sh"
need tar rsync diff python3
need_fuse
begin tree
FILES=${HAYATE_E2E_FILES:-20000}

timed "making the source" python3 "$E2E/make_tree.py" "$BOX/source" "$FILES"
XATTRS=(--xattrs '--xattrs-include=*')
tar -C "$BOX/source" "${XATTRS[@]}" -cf "$BOX/source.tar" .
count=$(find "$BOX/source" -type f | wc -l)
[ "$count" -ge "$FILES" ] || fail "only $count files in the source"

cluster_up c
mount_on c "$BOX/c/m"
timed "tar x of $count files" tar -C "$BOX/c/m" "${XATTRS[@]}" -xpf "$BOX/source.tar"
timed "comparing the mount" same_tree "$BOX/source" "$BOX/c/m" "the mount differs from the source"
h c status
# Without what the first mount remembers:
h c umount "$BOX/c/m"
mount_on c "$BOX/c/m"
timed "comparing a new mount" same_manifest "$BOX/source" "$BOX/c/m" "a new mount differs from the source"

timed "drain" drain c
timed "comparing the tier" same_tree "$BOX/source" "$BOX/c/tier" "the tier differs from the source"
same_manifest "$BOX/source" "$BOX/c/tier" "the tier differs from the source"
passed
