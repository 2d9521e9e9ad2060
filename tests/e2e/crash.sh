#!/usr/bin/env bash
# Goal: a server killed by SIGKILL in the middle of work, and started again, loses nothing that was closed or fsynced; the work goes
# on, or gets a clean error for what was in flight; nothing hangs.
# Method: a writer that logs what was acknowledged, a database and tar x work on a mount, while server after server is killed after
# varying delays and started again; at last all four at once. Then: what was acknowledged is compared on the mount, on a new mount, and,
# after a drain, in the tier. HAYATE_E2E_ROUNDS multiplies the kills.
. "$(dirname "$0")/lib.sh"
need tar rsync sqlite3 python3
need_fuse
begin crash
M=$BOX/c/m
TAR_FILES=3000
# What a killed neighbour makes servers and mounts say. Not expected: damage found, refusals of the store, panics.
expect_dead_neighbour
expect_log 'WARN fs_server::store::recover'

# Whether background process $1 still runs.
running() { kill -0 "$1" 2>/dev/null; }

# Unpacks the source again and again. tar ends well and all is there, or it says what failed, and the next run puts it right.
unpack() {
    local turn=0 code
    mkdir -p "$M/tree"
    while :; do
        code=0
        tar -C "$M/tree" -xpf "$BOX/source.tar" 2>"$BOX/tar.err" || code=$?
        turn=$((turn + 1))
        [ $code -eq 0 ] || echo "tar ended with $code: $(head -3 "$BOX/tar.err")" >>"$BOX/tar.log"
        echo "$code" >"$BOX/tar.last"
        [ ! -e "$BOX/stop" ] || return 0
        [ $code -ne 0 ] || { mv "$M/tree" "$M/tree-$turn" 2>>"$BOX/tar.log" && mkdir -p "$M/tree"; } || true
    done
}

start_work() {
    python3 "$E2E/acked_writer.py" "$M/files" "$BOX/files.log" "$BOX/stop" "${SEED:-1}" >"$BOX/writer.out" 2>&1 & WRITER=$!
    python3 "$E2E/acked_database.py" "$M/base.db" "$BOX/base.log" "$BOX/stop" >"$BOX/database.out" 2>&1 & DATABASE=$!
    unpack & TAR=$!
    CHILDREN+=($WRITER $DATABASE $TAR)
}

end_work() {
    touch "$BOX/stop"
    wait $WRITER || fail "the writer: $(tail -5 "$BOX/writer.out")"
    wait $DATABASE || fail "the database: $(tail -5 "$BOX/database.out")"
    wait $TAR || fail "tar"
    CHILDREN=()
    note "writer: $(tail -1 "$BOX/writer.out")"
    note "database: $(tail -1 "$BOX/database.out")"
    [ ! -s "$BOX/tar.log" ] || note "$(wc -l <"$BOX/tar.log") lines of errors from tar, the first: $(head -1 "$BOX/tar.log")"
}

# kill_and_restart DELAY-BEFORE DELAY-DOWN SERVER...: the delays are the fault's timing, not waiting for something.
kill_and_restart() {
    local before=$1 down=$2 server pid; shift 2
    sleep "$before"
    for server in "$@"; do
        pid=$(server_pid c "$server")
        runs "$pid" "$(job c)" || fail "server $server does not run"
        kill -KILL "$pid"
    done
    sleep "$down"
    h c up --restart >"$BOX/restart.out" 2>&1 || fail "up --restart after killing $*: $(cat "$BOX/restart.out")"
    running $WRITER || fail "the writer ended: $(tail -5 "$BOX/writer.out")"
}

# verify DIRECTORY WHAT
verify() {
    local said
    said=$(python3 "$E2E/acked_writer.py" --verify "$1/files" "$BOX/files.log" 2>&1) || fail "$2: $said"
    note "$2: $said"
    said=$(python3 "$E2E/acked_database.py" --verify "$1/base.db" "$BOX/base.log" 2>&1) || fail "$2: $said"
    note "$2: $said"
}

python3 "$E2E/make_tree.py" "$BOX/source" $TAR_FILES >/dev/null
tar -C "$BOX/source" --format=posix -cf "$BOX/source.tar" .
cluster_up c
mount_on c "$M"
start_work
for ((round = 0; round < ${HAYATE_E2E_ROUNDS:-1}; round++)); do
    kill_and_restart 3 0 0
    kill_and_restart 1.5 0.5 1
    kill_and_restart 0.7 2 2
    kill_and_restart 2.3 0 3
    kill_and_restart 1.1 1 0 2
done
kill_and_restart 2 0.2 0 1 2 3
sleep 2
end_work
mounted "$M"
verify "$M" "on the mount"
if [ "$(cat "$BOX/tar.last")" != 0 ]; then
    rm -rf "$M/tree"; mkdir "$M/tree"
    tar -C "$M/tree" -xpf "$BOX/source.tar" || fail "tar does not work after the kills"
fi
h c umount "$M"
mount_on c "$M"
verify "$M" "on a new mount"
# Every tree of which tar said that all went well is what is in the archive.
for tree in "$M"/tree*; do
    tar -C "$tree" -df "$BOX/source.tar" >"$BOX/tar.diff" 2>&1 || true
    ! grep -v 'time stamp' "$BOX/tar.diff" >"$BOX/tar.bad" || fail "${tree##*/} differs from its archive:
$(head -5 "$BOX/tar.bad")"
done
note "$(ls -d "$M"/tree* | wc -l) trees of tar x are whole"
python3 "$E2E/manifest.py" "$M" >"$BOX/shown"
timed "drain" drain c
python3 "$E2E/manifest.py" "$BOX/c/tier" | diff "$BOX/shown" - >"$BOX/difference" || fail "the tier is not what the mount showed:
$(head -20 "$BOX/difference" | cut -c1-300)"
verify "$BOX/c/tier" "in the tier"
passed
