#!/usr/bin/env bash
# Goal: the harness runs under mpirun by the ranks' variables, with the native client, verified, and tells what servers did; IO500 runs on a cluster from
# end to end. Method: the real mpirun with three ranks on four servers; then a short IO500 by processes of its own.
. "$(dirname "$0")/lib.sh"
need mpirun python3
begin bench
cluster_up c
cd "$BOX"
RUN=(mpirun -np 3)
if mpirun --version 2>&1 | grep -q 'Open MPI'; then
    RUN=(mpirun --oversubscribe -np 3)
    is_root && RUN=(mpirun --allow-run-as-root --oversubscribe -np 3)
fi
ranks() { timeout -k 5 120 "${RUN[@]}" "$HAYATE" --cluster "$BOX/c/c.toml" bench "$@"; }

ranks ior -a HAYATE -t 64k -b 1m -s 2 -w -r -R -C -o /f -O summaryFormat=JSON,summaryFile=ior.json >ior.txt 2>ior.err ||
    fail "ior under mpirun: $(tail -5 ior.txt ior.err)"
grep -q '^tasks               : 3$' ior.txt || fail "not three tasks: $(cat ior.txt)"
grep -q 'ranks of mpirun or srun' ior.txt || fail "not the ranks of mpirun: $(cat ior.txt)"
[ "$(grep -c '^Max Write: ' ior.txt)" = 1 ] || fail "more than one rank speaks: $(cat ior.txt)"
python3 - <<'PY' || fail "the JSON of ior is not what it should be"
import json
run = json.load(open("ior.json"))
write = run["tests"][0]["Results"][0]
assert write["numTasks"] == 3 and write["hayateBytes"] == 3 * 2 << 20, write
servers = write["hayateServers"]
assert len(servers["each"]) == 4 and sum(s["bytes_written"] for s in servers["each"]) == 3 * 2 << 20, servers
assert servers["cpuSeconds"] > 0 and servers["messages"] >= 96 and servers["balance"] >= 1, servers
PY
ranks mdtest -a HAYATE -n 50 -F -u -N 1 -w 100 -e 100 -X -d /md >md.txt 2>md.err || fail "mdtest under mpirun: $(tail -5 md.txt md.err)"
grep -q 'was launched with 3 total task(s) on 1 node(s)' md.txt || fail "$(cat md.txt)"
[ -z "$(find . -maxdepth 1 -name '.hayate-bench*')" ] || fail "a rendezvous file is left"
note "three ranks: $(grep '^Max Write' ior.txt)"

# A rank that fails ends all of them, with its name.
if ranks ior -a HAYATE -r -t 64k -b 1m -o /no/such/file >bad.txt 2>&1; then fail "a file that is not there was read"; fi
grep -q 'task [0-2] failed: cannot open /no/such/file' bad.txt || fail "no reason: $(cat bad.txt)"

h c bench io500 -a HAYATE -np 2 --stonewall 1 --easy-block 64m --hard-segments 300 --easy-files 500 --hard-files 300 -d /io500 --resultdir "$BOX/results" \
    >io500.txt || fail "io500: $(tail -5 io500.txt)"
[ "$(grep -c '^\[RESULT\]' io500.txt)" = 12 ] || fail "not twelve results: $(cat io500.txt)"
grep -q '^\[SCORE \] Bandwidth .*\[INVALID\]$' io500.txt || fail "no score, or not marked: $(cat io500.txt)"
[ -z "$(h c ls h:/io500)" ] || fail "data is left"
note "$(grep '^\[SCORE' io500.txt)"
