#!/usr/bin/env bash
# Goal: the system calls behave as POSIX says. Method: the Rust pjdfstest, all of it, on a mount of four servers: by root, and by an
# ordinary user. No failure is allowed; what it skips, and why, is in docs/testing.md.
. "$(dirname "$0")/lib.sh"
PJDFSTEST=${PJDFSTEST:-$ROOT/target/tools/bin/pjdfstest}
[ -x "$PJDFSTEST" ] || skip "pjdfstest is not installed (cargo install --locked pjdfstest --version 0.2.2 --root target/tools)"
is_root || skip "pjdfstest must be run by root"
need_fuse
begin pjdfstest

cat >"$BOX/pjdfstest.toml" <<'TOML'
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
TOML

# Its enametoolong_path tests compute (PATH_MAX - 1 - length of their directory) % 127 - 1 and panic when that is negative. Their
# directory is this one and 22 characters.
M=$BOX/m
while [ $(((4095 - ${#M} - 22) % 127)) = 0 ]; do M=${M}x; done

# run USER COMMAND...
run() {
    local who=$1; shift
    mkdir -p "$M/$who"; chmod 777 "$M/$who"
    "$@" timeout -k 5 300 "$PJDFSTEST" -c "$BOX/pjdfstest.toml" -p "$M/$who" >"$BOX/$who.out" 2>&1 || true
    mounted "$M"
    local summary
    summary=$(grep '^Summary:' "$BOX/$who.out") || fail "pjdfstest by $who did not finish:
$(tail -20 "$BOX/$who.out")"
    note "by $who: ${summary#Summary: }"
    grep -q '^Summary: 0 failed, .* 398 total' <<<"$summary" || fail "pjdfstest by $who:
$(grep -E 'FAILED|^Summary' "$BOX/$who.out" | head -40)"
}

cluster_up c
mount_on c "$M" --allow-other
timed "pjdfstest by root" run root
cp "$PJDFSTEST" "$BOX/pjdfstest"; PJDFSTEST=$BOX/pjdfstest
timed "pjdfstest by nobody" run nobody setpriv --reuid=nobody --regid=nogroup --clear-groups
passed
