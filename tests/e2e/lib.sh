# What all end-to-end tests stand on. Source it, call `begin`, then `cluster_up`; everything is taken down at the end, however that comes.
#
# Invariants
# - All files lie below $BOX, a new directory; a cluster is named by its own cluster file; ports are free ones. So tests run at the same time.
# - Only processes whose number this test read from its own cluster files, or started itself, get a signal.
# - Nothing is read or written through a mount before `mounted` has seen that it is one: on a plain directory all would pass.
# - A test fails on any ERROR or WARN line of servers and mounts that `expect_log` did not announce.
#
# Exit codes: 0 passed, 77 skipped (the last line says why), all else failed.

set -euo pipefail
E2E=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$E2E/../.." && pwd)
SKIPPED=77
# Seconds that bringing one thing down may take before it is killed.
PATIENCE=60
CLUSTERS=()
CHILDREN=()
# Servers flush side by side, so a name may come some seconds before its directory or before the first name of its file. That is tried again
# and no fault: it stays in the account, and a drain tells what lasts. And a request that a signal interrupted has nobody left to answer.
EXPECTED_LOG=('ERROR fuser::reply: Failed to send FUSE reply: No such file or directory'
    'WARN fs_server::flush(::[a-z]+)?: not in the shared tier yet; it is tried again .*reason="(its directory is not in the shared tier yet|another name of the file was published first.*)"')

note() { printf '   %s\n' "$*"; }
fail() { printf 'FAIL: %s\n' "$*" >&2; exit 1; }
skip() { printf 'SKIP: %s\n' "$*"; exit $SKIPPED; }
is_root() { [ "$(id -u)" = 0 ]; }

# need TOOL...: skips the test when one is missing.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || skip "$tool is not installed"
    done
}

need_fuse() {
    { : <>/dev/fuse; } 2>/dev/null || skip "/dev/fuse cannot be opened by this user"
    is_root || need fusermount3
}

# begin NAME: the test's directory, and its end.
begin() {
    HAYATE=${HAYATE:-$(newest_binary)}
    [ -x "$HAYATE" ] || fail "no hayate binary; build one (cargo build -p hayate) or set HAYATE"
    HAYATE=$(realpath "$HAYATE")
    BOX=$(mktemp -d "${TMPDIR:-/tmp}/hayate-e2e-$1-XXXXXX")
    mkdir "$BOX/logs"
    # Tests that change the user must get in; the secrets in it are in files of mode 0600.
    chmod 755 "$BOX"
    unset HAYATE_CLUSTER HAYATE_LOG
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

newest_binary() { { ls -t "$ROOT"/target/{release,debug}/hayate 2>/dev/null || true; } | head -1; }

# Ends what the test left running. The first failure decides the exit code.
finish() {
    local code=$? cluster pid
    trap - EXIT
    trap '' INT TERM
    set +e
    for pid in "${CHILDREN[@]}"; do kill -KILL "$pid" 2>/dev/null; done
    for cluster in "${CLUSTERS[@]}"; do take_down "$cluster"; done
    unmount_below "$BOX/"
    if [ $code -ne 0 ] && [ $code -ne $SKIPPED ]; then
        show_logs
    fi
    [ -z "${HAYATE_E2E_KEEP:-}" ] || { note "kept: $BOX"; exit $code; }
    # A mount that is still there must not be removed through.
    grep -qF " $BOX/" /proc/self/mounts || rm -rf "$BOX"
    exit $code
}

show_logs() {
    local log
    for log in "$BOX"/logs/*; do
        [ -s "$log" ] && { echo "--- the end of ${log##*/}"; tail -n 8 "$log" | cut -c1-250; }
    done >&2
}

# unmount_below DIRECTORY/
unmount_below() {
    local mount
    for mount in $(awk -v box="$1" 'index($2, box) == 1 { print $2 }' /proc/self/mounts); do
        umount -l "$mount" 2>/dev/null || fusermount3 -uz "$mount" 2>/dev/null
    done
}

# take_down NAME: without regard to what is in it. A cluster that was taken down before costs nothing.
take_down() {
    local home=$BOX/$1 file=$BOX/$1/c.toml pids pid job
    unmount_below "$home/"
    [ -f "$file" ] || return 0
    pids=$(server_pids "$1") job=$(job "$1")
    timeout -k 5 $PATIENCE "$HAYATE" --cluster "$file" down --discard >/dev/null 2>&1
    for pid in $pids; do runs "$pid" "$job" && kill -KILL "$pid" 2>/dev/null; done
    return 0
}

# runs PID JOB: a process number may have been given to another since, so the command line must name the cluster's job. One that
# has ended and was not waited for has no command line.
runs() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null | grep -F "$2" >/dev/null; }

job() { sed -n 's/^job = "\(.*\)"$/\1/p' "$BOX/$1/c.toml"; }
server_pids() { sed -n 's/^pid = //p' "$BOX/$1/c.toml"; }
# server_pid CLUSTER N
server_pid() { server_pids "$1" | sed -n "$(($2 + 1))p"; }
run_dir() { echo "/tmp/hayate-$(id -u)/$(job "$1")"; }

# h CLUSTER COMMAND...: the program on that cluster.
h() { local name=$1; shift; "$HAYATE" --cluster "$BOX/$name/c.toml" "$@"; }

# cluster_up NAME OPTION...: NODES (four) servers and a tier, with these options more. HAYATE_E2E_IO chooses how chunks are read and written.
cluster_up() {
    local name=$1; shift
    CLUSTERS+=("$name")
    mkdir -p "$BOX/$name/tier" "$BOX/$name/m"
    h "$name" up --nodes "${NODES:-4}" --store "$BOX/$name/store" --tier "$BOX/$name/tier" \
        ${HAYATE_E2E_IO:+--io "$HAYATE_E2E_IO"} "$@" >/dev/null
    keep_logs "$name"
}

# The logs are removed with the cluster; a second name keeps them. It holds for what is appended later, too. With a launcher they are in
# the rendezvous directory, which tests call `shared`.
keep_logs() {
    local log
    for log in "$(run_dir "$1")"/*.log "$BOX/$1/shared"/*.log; do
        [ -e "$log" ] || continue
        ln -f "$log" "$BOX/logs/$1-${log##*/}" 2>/dev/null || cp "$log" "$BOX/logs/$1-${log##*/}"
    done
}

# mount_on NAME DIR OPTION...
mount_on() {
    local name=$1 dir=$2; shift 2
    mkdir -p "$dir"
    h "$name" mount "$dir" "$@" >/dev/null
    mounted "$dir"
    keep_logs "$name"
}

mounted() { mountpoint -q "$1" || fail "$1 is not a mount point"; }

# until_true SECONDS WHAT COMMAND...
until_true() {
    local end=$((SECONDS + $1)) what=$2; shift 2
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "waited in vain for $what"
        sleep 0.05
    done
}

# The programs named mpirun: each MPI has its own, and links may hide all but one.
each_mpirun() {
    local found
    for found in mpirun.mpich mpirun.openmpi mpirun; do command -v "$found" || true; done | awk '{ system("readlink -f " $0) }' | sort -u
}

# Open MPI does not start as root unless told so, and counts slots.
open_mpi_runs() {
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
}

# expect_log PATTERN: an extended regular expression of ERROR and WARN lines that this test provokes.
expect_log() { EXPECTED_LOG+=("$1"); }

# expect_dead_neighbour: what cannot be flushed yet, or not be tidied up after flushing, because a server does not answer.
expect_dead_neighbour() {
    expect_log 'WARN fs_server::flush(::[a-z]+)?: (not|what staging needed is not tidied up) in the shared tier yet; it is tried again .*reason="(cannot reach |the connection was closed|no answer )'
}

check_logs() {
    local name bad pattern
    for name in "${CLUSTERS[@]}"; do [ -f "$BOX/$name/c.toml" ] && keep_logs "$name"; done
    bad=$(grep -HE '(^| )(ERROR|WARN) |panicked at' "$BOX/logs" -r || true)
    for pattern in "${EXPECTED_LOG[@]}"; do bad=$(grep -vE "$pattern" <<<"$bad" || true); done
    [ -z "$bad" ] || fail "unexpected lines in logs:
$(sed "s|^$BOX/logs/||" <<<"$bad" | head -20)"
}

# drain NAME: everything goes to the tier, the cluster ends, and nothing of it is left on the node.
drain() {
    local said home=$BOX/$1 dir job pids pid
    dir=$(run_dir "$1") job=$(job "$1") pids=$(server_pids "$1")
    keep_logs "$1"
    said=$(h "$1" down --drain 2>&1) || fail "down --drain: exit code $?: $said"
    grep -q 'nothing unsafe' <<<"$said" || fail "down --drain does not say 'nothing unsafe': $said"
    note "$(tail -1 <<<"$said")"
    ! mountpoint -q "$home/m" || fail "down --drain left the mount"
    [ ! -e "$dir" ] || fail "down --drain left $dir"
    for pid in $pids; do ! runs "$pid" "$job" || fail "down --drain left process $pid"; done
}

# same_tree A B WHAT: content by diff; all else (types, modes, owners, times, links, extended attributes) by rsync.
same_tree() {
    local difference
    difference=$(diff -r --no-dereference "$1" "$2" 2>&1 | head -20) || true
    [ -z "$difference" ] || fail "$3: diff -r:
$difference"
    difference=$(rsync -aHAXn --delete --itemize-changes "$1/" "$2/" 2>&1 | head -20) || true
    [ -z "$difference" ] || fail "$3: rsync -aHAXn:
$difference"
}

# same_manifest A B WHAT [OPTION]: as same_tree, by our own program: nanoseconds, hard link groups and checksums too.
same_manifest() {
    python3 "$E2E/manifest.py" "$1" ${4:+"$4"} >"$BOX/manifest.a"
    python3 "$E2E/manifest.py" "$2" ${4:+"$4"} >"$BOX/manifest.b"
    [ -s "$BOX/manifest.a" ] || fail "$3: $1 is empty"
    diff "$BOX/manifest.a" "$BOX/manifest.b" >"$BOX/manifest.diff" || fail "$3:
$(head -20 "$BOX/manifest.diff")"
}

# timed WHAT COMMAND...: runs it and says how long it took.
timed() {
    local what=$1 from=$EPOCHREALTIME; shift
    "$@"
    note "$what: $(awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }')"
}

passed() { check_logs; note "passed"; }
