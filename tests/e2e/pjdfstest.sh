#!/usr/bin/env bash
# Goal: the system calls behave as POSIX says. Method: the Rust pjdfstest, all of it, on a mount of four servers: by root, and by an
# ordinary user. No failure is allowed; what it skips, and why, is in docs/testing.md.
. "$(dirname "$0")/lib.sh"
PJDFSTEST=${PJDFSTEST:-$ROOT/target/tools/bin/pjdfstest}
[ -x "$PJDFSTEST" ] || skip "pjdfstest is not installed (cargo install --locked pjdfstest --version 0.2.2 --root target/tools)"
is_root || skip "pjdfstest must be run by root"
need_fuse
begin pjdfstest

# For what must not work across file systems.
mkdir "$BOX/secondary"
mount -t tmpfs -o mode=1777 none "$BOX/secondary"
cat >"$BOX/pjdfstest.toml" <<TOML
[features]
secondary_fs = "$BOX/secondary"
posix_fallocate = {}
utime_now = {}
utimensat = {}
rename_ctime = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
TOML

# Its enametoolong_path tests compute (PATH_MAX - 1 - length of their directory) % 127 - 1 and panic when that is negative. Their
# directory is this one and 22 characters.
M=$BOX/m
while [ $(((4095 - ${#M} - 22) % 127)) = 0 ]; do M=${M}x; done

# attempt USER COMMAND...: one run; its output is in USER.out.
attempt() {
    local who=$1; shift
    "$@" timeout -k 5 300 "$PJDFSTEST" -c "$BOX/pjdfstest.toml" -p "$M/$who" >"$BOX/$who.out" 2>&1 || true
    mounted "$M"
    grep -q '^Summary:' "$BOX/$who.out" || fail "pjdfstest by $who did not finish:
$(tail -20 "$BOX/$who.out")"
    note "by $who: $(sed -n 's/^Summary: //p' "$BOX/$who.out")"
}

failures() { awk '$NF == "FAILED" { print $1 }' "$BOX/$1.out"; }

# Its etxtbsy tests start a program that they have just written, while other threads of the suite fork: a child that has not called
# exec yet still has the file open for writing, and the start fails, on any file system. So if nothing else failed, once more.
run() {
    local who=$1 wrong
    mkdir -p "$M/$who"; chmod 777 "$M/$who"
    attempt "$@"
    wrong=$(failures "$who")
    if [ -n "$wrong" ] && ! grep -qv '::etxtbsy$' <<<"$wrong"; then
        note "only $wrong failed: a race of the suite with itself; once more"
        attempt "$@"
    fi
    grep -q '^Summary: 0 failed, .* 398 total' "$BOX/$who.out" || fail "pjdfstest by $who:
$(grep -E 'FAILED' "$BOX/$who.out" | head -40)"
}


cluster_up c
mount_on c "$M" --allow-other
timed "pjdfstest by root" run root
cp "$PJDFSTEST" "$BOX/pjdfstest"; PJDFSTEST=$BOX/pjdfstest
# As nobody, most of what changes the user is skipped.
timed "pjdfstest by nobody" run nobody setpriv --reuid=nobody --regid=nogroup --clear-groups
passed
