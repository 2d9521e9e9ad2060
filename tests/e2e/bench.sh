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
# As scripts that read IOR and mdtest do: by the first line, labels of 20 columns, headings of tables, and regular expressions.
python3 - <<'PY' || fail "a script that reads IOR's or mdtest's output does not understand ours"
import re
lines = open("ior.txt").read().splitlines()
assert re.match(r"^IOR-([3-9]\.[0-9]+\.[0-9]+\S*): MPI Coordinated Test of Parallel I/O", lines[0]), lines[0]
pairs = dict(re.match(r"^(.{20}): (.*)$", line).groups() for line in lines if re.match(r"^.{20}: ", line))
options = {key.strip(): value.strip() for key, value in pairs.items()}
assert options["api"] == "HAYATE" and options["tasks"] == "3" and options["xfersize"] == "65536 bytes", options
assert options["access"] == "single-shared-file" and options["aggregate filesize"] == "6 MiB", options

def rows(heading, count):
    at = next(i for i, line in enumerate(lines) if line.startswith(heading))
    names = lines[at].split()
    return [dict(zip(names, line.split(), strict=True)) for line in lines[at + count:at + count + 2]]

write, read = rows("access    bw(MiB/s)", 2)
assert (write["access"], read["access"], write["iter"]) == ("write", "read", "0") and float(write["bw(MiB/s)"]) > 0
best = float(re.search(r"^Max Write:\s+([0-9.]+) MiB/sec", "\n".join(lines), re.M)[1])
assert abs(best - float(write["bw(MiB/s)"])) <= best * 0.01, (best, write)
summary = rows("Operation   Max(MiB)", 1)
assert [row["Operation"] for row in summary] == ["write", "read"] and summary[0]["#Tasks"] == "3" and summary[0]["xsize"] == "65536"
table = dict((m[1], float(m[2])) for m in re.finditer(r"^\s+((?:File|Tree) \w+)\s+([\d.]+)\s+[\d.]+\s+[\d.]+\s+[\d.]+$", open("md.txt").read(), re.M))
assert set(table) == {"File creation", "File stat", "File read", "File removal", "Tree creation", "Tree removal"} and min(table.values()) > 0, table
PY
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

# A checkpoint becomes durable, survives the SIGKILL of a server between its last version and its recovery, and is read back right.
victim=$(server_pid c 1)
check_logs # Until here nothing may be in the logs; what is said while a server is away is not of this test.
h c bench checkpoint -a HAYATE -np 3 -b 8m -t 1m -i 2 --durable 60 -d /ck --json ck.json \
    --fault "kill -KILL $victim && '$HAYATE' --cluster '$BOX/c/c.toml' up --restart >restart.txt" >ck.txt 2>ck.err ||
    fail "checkpoint: $(tail -5 ck.txt ck.err)"
python3 - <<'PY' || fail "the times of the checkpoint are not what they should be: $(cat ck.txt)"
import json
run = json.load(open("ck.json"))["hayate"]
values = {metric["name"]: metric["values"] for metric in run["metrics"]}
blocking, committed, durable = (values[f"checkpoint {what}"] for what in ("blocking", "committed", "durable"))
assert len(blocking) == len(committed) == len(durable) == 2, values
assert all(a < b < c for a, b, c in zip(blocking, committed, durable)), values
assert len(values["recovery"]) == 1 and run["errors"] == 0 and run["faultSeconds"] > 0, run
PY
note "$(grep '^recovery  *:' ck.txt)"

h c bench dataset -a HAYATE -np 2 --files 40 --samples-per-file 3 --sample 10k --batch 8 --compute-ms 2 -i 2 -R -d /set --json set.json >set.txt ||
    fail "dataset: $(tail -5 set.txt)"
grep -q '^epoch  *samples/s  *MiB/s  *AU mean(%)' set.txt || fail "no epochs: $(cat set.txt)"
h c bench compare set.json set.json >compare.txt || fail "compare: $(cat compare.txt)"
grep -q '^accelerator utilisation .* 1.000 within the spread$' compare.txt || fail "a run is not like itself: $(cat compare.txt)"
h c bench report page.html ior.json ck.json set.json --svg charts >/dev/null || fail "no report"
[ "$(grep -o '<svg' page.html | wc -l)" -ge 5 ] && [ -n "$(ls charts/*.svg)" ] || fail "too few charts"
