#!/usr/bin/env bash
# Goal: README command 1 does what it says, with FUSE and without, and leaves nothing behind. Method: the real program; without FUSE
# in a mount namespace whose /dev/fuse cannot be opened.
. "$(dirname "$0")/lib.sh"
begin demo
mkdir "$BOX/place"

# demo OUTPUT WAY COMMAND-PREFIX...
demo() {
    local out=$1 way=$2; shift 2
    "$@" "$HAYATE" demo --dir "$BOX/place" --size 64M >"$BOX/$out" 2>&1 || fail "hayate demo: $(tail -20 "$BOX/$out")"
    for word in "$way" burst read-back flush balance "bytes in tier 2"; do
        grep -qi "$word" "$BOX/$out" || fail "hayate demo does not say '$word': $(cat "$BOX/$out")"
    done
    [ -z "$(ls -A "$BOX/place")" ] || fail "hayate demo left $(ls "$BOX/place")"
    ! grep -q " $BOX/" /proc/self/mounts || fail "hayate demo left a mount"
    pgrep -f -- "$BOX/place" >/dev/null && fail "hayate demo left processes: $(pgrep -af -- "$BOX/place")"
    note "$(grep -i 'bytes in tier 2' "$BOX/$out" | head -1)"
}

if { : <>/dev/fuse; } 2>/dev/null; then
    timed "with a mount" demo with 'mounted at'
else
    note "no /dev/fuse here: the demo with a mount is not shown"
fi
if is_root && unshare -m true 2>/dev/null; then
    [ -e /dev/fuse ] && hide='mount --bind /dev/null /dev/fuse &&' || hide=
    timed "without FUSE" demo without 'no mount here' unshare -m sh -c "$hide"' exec "$@"' sh
fi
passed
