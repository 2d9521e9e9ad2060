# What the tests with a real shared file system as tier 2 have in common: namespaces of their own, a burst, kills in the middle of its flush, and a second job
# that reads the copies through. Source it after lib.sh. A test mounts its file system at $VOLUME, with a directory `tier` in it.

VOLUME=

# needs_root_and PACKAGE PROGRAM...: what the test takes; installs the packages (words joined by commas) when a program is missing.
needs_root_and() {
    local packages=${1//,/ } program missing=; shift
    is_root || skip "daemons of a file system and their namespaces take root"
    need unshare ip
    need_fuse
    for program in "$@"; do command -v "$program" >/dev/null || missing+=" $program"; done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || skip "not installed:$missing (packages $packages)"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get install -y -qq --no-install-recommends $packages || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; }; } \
        >/dev/null 2>&1 || skip "not installed, and apt-get cannot install it:$missing (packages $packages)"
}

# Runs the test again with mounts, network and processes of its own: nothing of the daemons outlives it, and two of the same do not meet.
enter_namespaces() {
    [ -z "${HAYATE_E2E_NAMESPACE:-}" ] || return 0
    # A new session, because what kills a process group must not kill the first process of the namespace alone.
    HAYATE_E2E_NAMESPACE=1 exec unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private "$0"
}

begin_tier2() {
    begin "$1"
    # Killed neighbours, and a tier that is away.
    expect_log 'WARN fs_server::flush(::[a-z]+)?: not in the shared tier yet; it is tried again'
    expect_log 'WARN fs_server::flush(::[a-z]+)?: what staging needed is not tidied up in the shared tier yet'
    expect_log 'WARN fs_server::store::recover'
    expect_log 'WARN fs_server::flush(::[a-z]+)?: the shared tier cannot be used yet'
    VOLUME=$BOX/volume
    mkdir "$VOLUME"
    ip link set lo up
}

quietly() { "$@" >/dev/null 2>&1; }

# make_burst DIR: 320 MiB in one large file and eight others, and 600 small files.
make_burst() {
    python3 - "$1" <<'PYTHON'
import os, random, sys
from pathlib import Path

top, chance = Path(sys.argv[1]), random.Random(6)
def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(chance.randbytes(size))
write(top / "shared", 128 << 20)
for number in range(8):
    write(top / f"ranks/{number}", (24 << 20) + number * 4097)
for number in range(600):
    write(top / f"small/{number % 7}/{number}", number * 37)
with (top / "sparse").open("wb") as out:
    out.truncate(64 << 20)
    out.seek(40 << 20)
    out.write(b"in the middle")
os.link(top / "ranks/0", top / "linked")
os.symlink("ranks/1", top / "pointer")
os.chmod(top / "small/3", 0o750)
os.setxattr(top / "ranks/2", "user.kind", b"a rank's")
PYTHON
}

# copied: bytes that servers wrote to the tier since they started.
copied() {
    h c status --json 2>/dev/null | python3 -c 'import json, sys
print(sum(s["status"]["flush"]["copied_bytes"] for s in json.load(sys.stdin)["servers"] if s.get("status")))'
}

under_way() { [ "$(copied)" -gt $((8 << 20)) ]; }

kill_servers() {
    local server pid
    for server in "$@"; do
        pid=$(server_pid c "$server")
        runs "$pid" "$(job c)" || fail "server $server does not run"
        kill -KILL "$pid"
    done
    h c up --restart >"$BOX/restart.out" 2>&1 || fail "up --restart after killing $*: $(cat "$BOX/restart.out")"
}

# kill_in_the_middle [COMMAND...]: a burst goes through a mount of four servers to tier 2. Once bytes are on their way servers are killed, COMMAND kills
# something of the tier, and all servers are killed together; started again, everything is there, and goes to the tier.
kill_in_the_middle() {
    local pending
    make_burst "$BOX/source"
    CLUSTERS+=(c)
    mkdir -p "$BOX/c/m"
    # Slow enough that there is a middle to kill in.
    h c up --nodes 4 --store "$BOX/c/store" --tier "$VOLUME/tier" --flush-bandwidth 6M >/dev/null
    keep_logs c
    mount_on c "$BOX/c/m"
    timed "burst" cp -a "$BOX/source/." "$BOX/c/m/"
    until_true 60 "bytes under way" quietly under_way
    kill_servers 1
    kill_servers 0 2
    "$@"
    kill_servers 0 1 2 3
    pending=$(h c status --json | python3 -c 'import json, sys; print(sum(s["status"]["flush"]["pending_names"] for s in json.load(sys.stdin)["servers"]))')
    [ "$pending" -gt 0 ] || fail "all was flushed before the last kill: nothing of it is shown"
    note "names that waited when the last servers were killed: $pending"
    mounted "$BOX/c/m"
    same_tree "$BOX/source" "$BOX/c/m" "the mount differs from the source"
    timed "drain" drain c
    mountpoint -q "$VOLUME" || fail "the volume is not mounted any more"
}

# Another job reads through what is there, and changes some of it.
read_through_and_change() {
    local difference top
    CLUSTERS+=(d)
    mkdir -p "$BOX/d/m"
    h d up --nodes 2 --store "$BOX/d/store" --tier "$VOLUME/tier" >/dev/null
    keep_logs d
    mount_on d "$BOX/d/m"
    # Hard links are files of their own when they are read through.
    difference=$(diff -r --no-dereference "$BOX/source" "$BOX/d/m" 2>&1 | head) || true
    [ -z "$difference" ] || fail "what is read through differs from the source: $difference"
    for top in "$BOX/source" "$BOX/d/m"; do
        printf short >"$top/ranks/3"
        rm -r "$top/small/1"
        mv "$top/ranks/4" "$top/small/2/moved"
        dd if=/dev/zero of="$top/shared" bs=1M seek=30 count=3 conv=notrunc status=none
        truncate -s 1000000 "$top/ranks/5"
    done
    timed "drain of the changes" drain d
    difference=$(diff -r --no-dereference "$BOX/source" "$VOLUME/tier" 2>&1 | head) || true
    [ -z "$difference" ] || fail "the tier differs after the changes: $difference"
}
