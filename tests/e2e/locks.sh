#!/usr/bin/env bash
# Goal: locks and appends hold between nodes. Method: three mounts of one cluster; ping_pong, our own checks, sqlite3 and MPI-IO, each
# process on another mount; a holder and a whole mount are killed.
. "$(dirname "$0")/lib.sh"
need python3
need_fuse
begin locks
PING_PONG=${PING_PONG:-ping_pong}
NODES=3
cluster_up c
for mount in m m2 m3; do mount_on c "$BOX/c/$mount"; done
A=$BOX/c/m B=$BOX/c/m2 C=$BOX/c/m3

# Two processes pass three locks round; the one byte of each is counted up by both.
ping_pong_settles() {
    local pid_a pid_b increment
    command -v "$PING_PONG" >/dev/null || { note "ping_pong: not installed (package ctdb), left out"; return 0; }
    "$PING_PONG" -rw "$A/ping" 3 >"$BOX/ping.a" 2>&1 & pid_a=$!
    CHILDREN+=("$pid_a")
    sleep 1 # The rate of one alone is shown, too.
    "$PING_PONG" -rw "$B/ping" 3 >"$BOX/ping.b" 2>&1 & pid_b=$!
    CHILDREN+=("$pid_b")
    sleep 5
    kill "$pid_a" "$pid_b"
    wait "$pid_a" "$pid_b" 2>/dev/null || true
    tr '\r' '\n' <"$BOX/ping.a" | grep -a 'locks/sec' | sed -n '1s/^ */alone: /p' | while read -r line; do note "ping_pong $line"; done
    for side in a b; do
        tr '\r' '\n' <"$BOX/ping.$side" >"$BOX/ping.$side.lines"
        increment=$(grep -a 'data increment' "$BOX/ping.$side.lines" | tail -1)
        note "ping_pong, both: $(grep -a 'locks/sec' "$BOX/ping.$side.lines" | tail -1)"
        grep -q 'data increment = 2$' <<<"$increment" || fail "ping_pong -rw does not settle on 2: $increment"
    done
}

own_checks() {
    timeout -k 5 120 python3 "$E2E/locks.py" "$A" "$B" "$C" >"$BOX/locks.out" 2>&1 || fail "locks.py:
$(grep -v '^ok ' "$BOX/locks.out" | head -40)"
    note "$(grep -c '^ok ' "$BOX/locks.out") checks"
    grep '^     ' "$BOX/locks.out" || true
}

# Many transactions from two mounts; each adds to a sum that has to be right.
sqlite_counts() {
    local side
    command -v sqlite3 >/dev/null || { note "sqlite3: not installed, left out"; return 0; }
    sqlite3 "$A/base.db" 'CREATE TABLE sum (n INTEGER); INSERT INTO sum VALUES (0); CREATE TABLE log (who TEXT, n INTEGER);'
    for side in "$A" "$B"; do
        for _ in $(seq 40); do
            printf '.timeout 60000\nBEGIN IMMEDIATE; UPDATE sum SET n = n + 1; INSERT INTO log SELECT %s, n FROM sum; COMMIT;\n' "'${side##*/}'"
        done >"$BOX/sql"
        (cd "$BOX" && sqlite3 -bail "$side/base.db" <"$BOX/sql" >"$BOX/sqlite.${side##*/}" 2>&1) &
        CHILDREN+=("$!") sqlite_pids+=("$!")
    done
    for pid in "${sqlite_pids[@]}"; do wait "$pid" || fail "sqlite3: $(cat "$BOX"/sqlite.*)"; done
    for side in "$A" "$B" "$C"; do
        [ "$(sqlite3 "$side/base.db" 'PRAGMA integrity_check; SELECT n FROM sum; SELECT count(DISTINCT n) FROM log;' | tr '\n' ' ')" = 'ok 80 80 ' ] \
            || fail "sqlite3 at $side: $(sqlite3 "$side/base.db" 'PRAGMA integrity_check; SELECT n FROM sum; SELECT count(*) FROM log;')"
    done
    note "sqlite3: 80 transactions from two mounts, none lost"
}

# For every MPI that is here: what its MPI-IO needs locks for.
mpi_io() {
    local kind run done=0
    local -A flags=([mpich]="" [openmpi]="--allow-run-as-root --oversubscribe --mca io romio321")
    for kind in mpich openmpi; do
        command -v "mpirun.$kind" >/dev/null || continue
        # The compiler's name comes without the headers, too.
        echo '#include <mpi.h>' >"$BOX/mpi.c"
        "mpicc.$kind" -c -o "$BOX/mpi.o" "$BOX/mpi.c" 2>/dev/null || { note "MPI-IO by $kind: mpicc or mpi.h is missing, left out"; continue; }
        "mpicc.$kind" -O1 -o "$BOX/mpi_locks.$kind" "$E2E/mpi_locks.c" 2>"$BOX/mpicc" || fail "mpicc.$kind: $(head -5 "$BOX/mpicc")"
        # Word by word.
        run=$(cd "$BOX" && timeout -k 5 100 "mpirun.$kind" ${flags[$kind]} -n 3 "$BOX/mpi_locks.$kind" "$kind" "$A" "$B" "$C" 2>&1) \
            || fail "MPI-IO by $kind: $(tail -20 <<<"$run")"
        note "MPI-IO by $kind: $(grep '^ok' <<<"$run")"
        done=1
    done
    [ $done = 1 ] || note "MPI-IO: no MPI with its headers is installed, left out"
}

# The process of a mount is killed while a program behind it holds locks.
killed_mount() {
    local pid
    expect_log 'WARN .*connection closed'
    python3 - "$C/held" "$BOX/has" <<'PY' &
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
fcntl.flock(file, fcntl.LOCK_EX)
open(sys.argv[2], "w").close()
time.sleep(100)
PY
    CHILDREN+=("$!")
    disown # Its end by SIGKILL is no news.
    for _ in $(seq 200); do [ -e "$BOX/has" ] && break; sleep 0.05; done
    [ -e "$BOX/has" ] || fail "the holder did not get its locks"
    pid=$(h c status | sed -n "s|^mounted at $C (process \([0-9]*\))$|\1|p")
    [ -n "$pid" ] || fail "hayate status names no mount at $C"
    kill -KILL "$pid"
    timeout 20 python3 -c '
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
began = time.monotonic()
fcntl.lockf(file, fcntl.LOCK_EX)
fcntl.flock(file, fcntl.LOCK_EX)
print(f"   locks of a killed mount are given on after {time.monotonic() - began:.2f} s")' "$A/held" || fail "the locks of a killed mount are not given on"
}

sqlite_pids=()
timed "ping_pong" ping_pong_settles
timed "own checks" own_checks
timed "sqlite3" sqlite_counts
timed "MPI-IO" mpi_io
timed "a killed mount" killed_mount
mounted "$A"
mounted "$B"
passed
