#!/usr/bin/env bash
# Goal: programs in C and C++ use a cluster of real processes by libhayate.so, and programs written for CHFS by libchfs.so. Method: the program of docs/clients.md
# in both languages; the programs of the crates' tests; a program that connects, asks and ends is measured; servers are killed under an open connection,
# and gone for good.
. "$(dirname "$0")/lib.sh"
need cc c++ awk
begin c_library
LIBRARIES=$(dirname "$HAYATE")
for library in libhayate.so libchfs.so; do
    [ -e "$LIBRARIES/$library" ] || fail "no $LIBRARIES/$library; build it (cargo build -p hayate-c -p hayate-chfs)"
done

# Programs ask for it by this name, as those that were built for CHFS; cargo lays it beside the library, and a copy of that may lie elsewhere.
[ -e "$LIBRARIES/libchfs.so.0" ] || ln -s libchfs.so "$LIBRARIES/libchfs.so.0" || [ -e "$LIBRARIES/libchfs.so.0" ] || fail "no $LIBRARIES/libchfs.so.0"

# compiled COMPILER SOURCE PROGRAM LIBRARY
compiled() {
    "$1" -Wall -Wextra -Werror -pthread -o "$3" "$2" -I"$ROOT/libio/c/include" -I"$ROOT/libio/chfs/include" -L"$LIBRARIES" -Wl,-rpath,"$LIBRARIES" "-l$4"
}

NODES=3
cluster_up c
export HAYATE_CLUSTER=$BOX/c/c.toml

# The first block is a whole program.
awk '/^```c$/ && !seen++ { on = 1; next } /^```/ { on = 0 } on' "$ROOT/docs/clients.md" >"$BOX/example.c"
cp "$BOX/example.c" "$BOX/example.cpp"
for language in c cpp; do
    compiler=cc; [ $language = c ] || compiler=c++
    compiled $compiler "$BOX/example.$language" "$BOX/example-$language" hayate
    "$BOX/example-$language" || fail "the program of docs/clients.md as $language: exit code $?"
    [ "$(h c cat /result)" = 42 ] || fail "the program of docs/clients.md as $language wrote $(h c cat /result)"
    h c rm /result
done

# runs_well WHAT COMMAND...: one that takes so long on no machine hangs, and is ended with what it has started.
runs_well() {
    local what=$1; shift
    timeout --verbose -k 5 400 "$@" 2>"$BOX/runs.err" || fail "$what: exit code $?: $(cat "$BOX/runs.err")"
}
for program in files bad threads forks tier short; do
    compiled cc "$ROOT/libio/c/tests/c/$program.c" "$BOX/$program" hayate
    [ $program = short ] || timed "$program" runs_well "$program" "$BOX/$program" "$HAYATE_CLUSTER"
done

# The best of many, in milliseconds: others use the machine, too. The figure is for an optimised build, the bound for any.
start_up() {
    local from
    for _ in $(seq 40); do
        from=$EPOCHREALTIME
        "$BOX/short" "$HAYATE_CLUSTER" || fail "short: exit code $?"
        awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f\n", (b - a) * 1000 }'
    done | sort -n >"$BOX/start_up"
    note "connect, stat, exit: best $(sed -n 1p "$BOX/start_up") ms, median $(sed -n 20p "$BOX/start_up") ms"
    awk 'NR == 1 && $1 > 25 { exit 1 }' "$BOX/start_up" || fail "a short process takes $(sed -n 1p "$BOX/start_up") ms"
}
start_up

compiled cc "$ROOT/libio/chfs/tests/c/program.c" "$BOX/chfs-program" chfs
mkdir -p "$BOX/backend/in"
printf 'staged in' >"$BOX/backend/in/file"
chmod 640 "$BOX/backend/in/file"
touch -d @1234567890 "$BOX/backend/in/file"
ln -s file "$BOX/backend/in/link"
cluster_up chfs
timed "a program for CHFS" runs_well "a program for CHFS" env -u HAYATE_CLUSTER XDG_RUNTIME_DIR="$BOX/nothing" \
    "$BOX/chfs-program" "$BOX/chfs/c.toml" "$BOX/backend" "$BOX/chfs/tier"

# A program that writes while servers are killed and come back notices nothing; one whose cluster is gone is told within its time-out.
# What the programs before left is being flushed meanwhile.
expect_log 'not in the shared tier yet; it is tried again'
compiled cc "$ROOT/tests/e2e/c_survivor.c" "$BOX/survivor" hayate
: >"$BOX/survivor.out"
"$BOX/survivor" "$HAYATE_CLUSTER" >>"$BOX/survivor.out" 2>&1 & survivor=$!
CHILDREN+=("$survivor")
for server in 1 2; do
    lines=$(wc -l <"$BOX/survivor.out")
    for _ in $(seq 300); do [ "$(wc -l <"$BOX/survivor.out")" -gt $((lines + 20)) ] && break; sleep 0.1; done
    kill -KILL "$(server_pid c $server)"
    h c up --restart >/dev/null
done
kill -USR1 "$survivor"
wait "$survivor" || fail "the program was disturbed: exit code $?: $(tail -2 "$BOX/survivor.out")"
note "killed two servers under a program: $(tail -1 "$BOX/survivor.out")"
"$BOX/survivor" "$HAYATE_CLUSTER" >"$BOX/left.out" 2>&1 & survivor=$!
CHILDREN+=("$survivor")
for _ in $(seq 300); do [ -s "$BOX/left.out" ] && break; sleep 0.1; done
for pid in $(server_pids c); do kill -KILL "$pid"; done
code=0
wait "$survivor" || code=$?
grep -q 'ETIMEDOUT' "$BOX/left.out" || fail "a program without servers: exit code $code: $(tail -2 "$BOX/left.out")"
note "without servers: $(tail -1 "$BOX/left.out")"
passed
