#!/usr/bin/env bash
# Goal: a database server keeps its data on a mount: through the kill of a server of Hayate in the middle of its work, and through its own.
# Method: PostgreSQL with page checksums; pgbench while a server is killed by SIGKILL and started again; then PostgreSQL itself is killed and recovers.
# After each: every transaction that pgbench was told of is there, the sums that it keeps three times agree, and amcheck finds tables and indexes sound.
. "$(dirname "$0")/lib.sh"
PG_BIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1 || true)
[ -x "$PG_BIN/initdb" ] || skip "postgresql is not installed"
need_fuse
begin postgres
M=$BOX/c/m
DATA=$M/pg
RUN_S=$((6 * ${HAYATE_E2E_ROUNDS:-1}))
expect_dead_neighbour
expect_log 'WARN fs_server::store::recover'

# PostgreSQL does not run as root.
as_user() { if is_root; then setpriv --reuid=postgres --regid=postgres --init-groups "$@"; else "$@"; fi; }
pg() { local tool=$1; shift; (cd "$BOX/pg" && as_user env LC_ALL=C PGHOST="$BOX/pg" PGDATABASE=bench "$PG_BIN/$tool" "$@"); }
sql() { pg psql -qAtX -c "$1"; }
start() { pg pg_ctl -D "$DATA" -w -t 60 -l "$BOX/pg/log" start >/dev/null || fail "PostgreSQL does not start: $(tail -5 "$BOX/pg/log")"; }
postmaster() { head -1 "$DATA/postmaster.pid"; }

make_database() {
    pg initdb -D "$DATA" -k -A trust -E UTF8 --no-locale >"$BOX/initdb.out" 2>&1 || fail "initdb: $(tail -5 "$BOX/initdb.out")"
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$BOX/pg'" 'shared_buffers = 16MB' 'checkpoint_timeout = 30s' 'max_wal_size = 64MB' \
        >>"$DATA/postgresql.conf"
    start
    pg createdb bench
    pg pgbench -i -q -s 2 bench >"$BOX/pgbench.init" 2>&1 || fail "pgbench -i: $(tail -5 "$BOX/pgbench.init")"
    sql 'CREATE EXTENSION amcheck' || fail "no amcheck"
}

# work: pgbench in the background.
work() { pg pgbench -n -c 4 -j 2 -T "$RUN_S" bench >"$BOX/pgbench.out" 2>&1 & CHILDREN+=($!); }

# Transactions that pgbench was told of, all runs together.
TOLD=0
count_told() {
    local told
    told=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$BOX/pgbench.out")
    ! grep -E 'aborted|ERROR|FATAL' "$BOX/pgbench.out" || fail "pgbench: $(tail -15 "$BOX/pgbench.out")"
    [ "${told:-0}" -gt 0 ] || fail "pgbench did nothing: $(tail -15 "$BOX/pgbench.out")"
    TOLD=$((TOLD + told))
}

verify() {
    local there sums
    there=$(sql 'SELECT count(*) FROM pgbench_history')
    [ "$there" -ge $TOLD ] || fail "$1: $there transactions are there, $TOLD were acknowledged"
    sums=$(sql "SELECT count(DISTINCT s) FROM (SELECT sum(abalance) s FROM pgbench_accounts UNION ALL SELECT sum(bbalance) FROM pgbench_branches
        UNION ALL SELECT sum(tbalance) FROM pgbench_tellers UNION ALL SELECT sum(delta) FROM pgbench_history) sums")
    [ "$sums" = 1 ] || fail "$1: the sums differ"
    pg pg_amcheck --heapallindexed bench >"$BOX/amcheck.out" 2>&1 || fail "$1: amcheck: $(head -10 "$BOX/amcheck.out")"
    note "$1: $there transactions, $TOLD of them acknowledged; sums agree, amcheck finds nothing"
}

kill_a_server() {
    local pid
    # When it happens, not waiting for something.
    sleep 2
    pid=$(server_pid c "$1")
    runs "$pid" "$(job c)" || fail "server $1 does not run"
    kill -KILL "$pid"
    sleep 0.5
    h c up --restart >"$BOX/restart.out" 2>&1 || fail "up --restart: $(cat "$BOX/restart.out")"
}

bench_with_a_kill() {
    work
    kill_a_server "$1"
    wait "${CHILDREN[-1]}" || fail "pgbench: $(tail -15 "$BOX/pgbench.out")"
    CHILDREN=()
    count_told
}

# Everything of it at once, as the kernel does when a machine's memory is full.
kill_postgres() {
    local pid=$1 children
    children=$(pgrep -P "$pid" || true)
    kill -KILL "$pid" $children
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
}

mkdir "$BOX/pg"
cluster_up c
if is_root; then mount_on c "$M" --allow-other; chown postgres "$BOX/pg"; install -d -o postgres -m 700 "$DATA"; else mount_on c "$M"; fi
trap 'code=$?; [ ! -s "$DATA/postmaster.pid" ] || pg pg_ctl -D "$DATA" -m immediate stop >/dev/null 2>&1; (exit $code); finish' EXIT
timed "initdb, pgbench -i" make_database
for server in 0 2; do timed "pgbench, server $server killed" bench_with_a_kill $server; done
verify "after the kills of servers"
work
sleep 3
kill_postgres "$(postmaster)"
wait "${CHILDREN[-1]}" || true
CHILDREN=()
timed "recovery" start
verify "after the kill of PostgreSQL"
pg pg_ctl -D "$DATA" -w -m fast stop >/dev/null || fail "PostgreSQL does not stop"
pg pg_checksums -D "$DATA" --check >"$BOX/checksums" 2>&1 || fail "pg_checksums: $(tail -5 "$BOX/checksums")"
note "pg_checksums: $(grep -i 'blocks scanned' "$BOX/checksums")"
python3 "$E2E/manifest.py" "$M" >"$BOX/shown"
drain c
python3 "$E2E/manifest.py" "$BOX/c/tier" | diff "$BOX/shown" - >"$BOX/difference" || fail "the tier is not what the mount showed:
$(head -20 "$BOX/difference" | cut -c1-300)"
passed
