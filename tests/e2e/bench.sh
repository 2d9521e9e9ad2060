#!/usr/bin/env bash
# Goal: the harness runs under each launcher that is here by the ranks' variables, with the native client, verified, and tells what servers did; IO500, checkpoints and a data set
# run on a cluster from end to end; published scripts that read IOR's, mdtest's and IO500's output read ours; each output says how the servers are configured, as they say it themselves;
# servers can stand for nodes; ranks on several hosts meet, and shift to the next one, however they were dealt to them; what a mount's process costs is told.
# Method: the real mpirun of every MPI (MPICH, Open MPI) and the real srun of a Slurm of one node, three ranks each, on four servers. Parsers from PyPI, and the rules of others (`parsers.py`).
# Hosts are UTS namespaces with names of their own; one that was booted by itself is one whose boot has another number, too.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/slurm_lib.sh"
need python3
begin bench
MISSING=()
# Not the defaults: what is shown must have been asked for.
cluster_up c --durability device --memory 300M --capacity 6G --inline 8192 --hot-files off --workers 2
cd "$BOX"
# Of all servers: program, commit, I/O as it is (the device may refuse another), durability, memory, capacity, limit of inline files.
h c status --json | python3 -c '
import json, sys
servers = [server["status"] for server in json.load(sys.stdin)["servers"]]
assert len(servers) == 4
first = servers[0]
io, commit = "+".join(first["chunks"]["io"]), first["config"]["commit"]
assert commit not in ("", "unknown"), first["config"]
print("servers             : 4, hayate %s (commit %s)" % (first["version"], commit))
print("servers'"'"' options    : io %s, durability device, memory 300 MiB, capacity 6 GiB, inline up to 8192 bytes, hot files off, workers 2" % io)
print("clients             : transport auto, route auto")
' >said-of-itself || fail "the servers do not say how they are configured: $(h c status --json)"
ranks() { timeout -k 5 120 "${LAUNCHER[@]}" "$HAYATE" --cluster "$BOX/c/c.toml" bench "$@"; }

# configured FILE: the text says of the servers what they say of themselves, after what parsers of IOR and mdtest read.
configured() {
    local line
    while read -r line; do
        grep -qxF "$line" "$1" || fail "$1 lacks '$line': $(cat "$1")"
    done <"$BOX/said-of-itself"
    # Of a file that is there, its chunks' size, too.
    grep -qE '^layout              : striped(,chunk=.*)?$' "$1" || fail "$1 has no layout: $(cat "$1")"
    awk '/^servers  / { exit !ended } /^Finished  |^-- finished at|^\[SCORE|^Command line  / { ended = 1 }' "$1" || fail "the configuration is where parsers read: $(cat "$1")"
}

# by LAUNCHER...: everything that ranks do, by this launcher. What they print stays in $BOX.
by() {
    LAUNCHER=("$@")
    rm -f ./*.txt ./*.json
    ranks ior -a HAYATE -t 64k -b 1m -s 2 -w -r -R -C -k -o /f -O summaryFormat=JSON,summaryFile=ior.json >ior.txt 2>ior.err ||
        fail "ior by $*: $(tail -5 ior.txt ior.err)"
    grep -q '^tasks               : 3$' ior.txt || fail "$*: not three tasks: $(cat ior.txt)"
    grep -q 'ranks of mpirun or srun' ior.txt || fail "$*: not its ranks: $(cat ior.txt)"
    [ "$(grep -c '^Max Write: ' ior.txt)" = 1 ] || fail "$*: more than one rank speaks: $(cat ior.txt)"
    python3 - <<'PY' || fail "$*: the JSON of ior is not what it should be"
import json
run = json.load(open("ior.json"))
write = run["tests"][0]["Results"][0]
assert write["numTasks"] == 3 and write["hayateBytes"] == 3 * 2 << 20, write
servers = write["hayateServers"]
assert len(servers["each"]) == 4 and sum(s["bytes_written"] for s in servers["each"]) == 3 * 2 << 20, servers
assert servers["cpuSeconds"] > 0 and servers["messages"] >= 96 and servers["balance"] >= 1, servers
PY
    configured ior.txt
    ranks mdtest -a HAYATE -n 50 -F -u -N 1 -w 100 -e 100 -X -d /md >md.txt 2>md.err || fail "mdtest by $*: $(tail -5 md.txt md.err)"
    configured md.txt
    grep -q 'was launched with 3 total task(s) on 1 node(s)' md.txt || fail "$*: $(cat md.txt)"
    [ -z "$(find . -maxdepth 1 -name '.hayate-bench*')" ] || fail "$*: a rendezvous file is left"
    # A rank that fails ends all of them, with its name.
    if ranks ior -a HAYATE -r -t 64k -b 1m -o /no/such/file >bad.txt 2>&1; then fail "$*: a file that is not there was read"; fi
    grep -q 'task [0-2] failed: cannot open /no/such/file' bad.txt || fail "$*: no reason: $(cat bad.txt)"
    note "three ranks by $*: $(grep '^Max Write' ior.txt)"
}

by_mpi() {
    local program number=0
    open_mpi_runs
    for program in $(each_mpirun); do
        number=$((number + 1))
        by "$program" -np 3
    done
    [ $number -gt 0 ] || MISSING+=("mpirun is not installed")
}

by_srun() {
    local missing
    missing=$(slurm_missing)
    [ -z "$missing" ] || { MISSING+=("srun: $missing"); return 0; }
    slurm_up
    by srun -n 3
}

# A virtual environment with published readers of IOR's output; kept, like that of the test `python`. Prints its Python, or nothing where there is no PyPI.
readers() {
    local venv=${VENV:-$BOX/venv}-readers
    [ -x "$venv/ready" ] || {
        rm -rf "$venv"
        timeout 60 python3 -m venv "$venv" && timeout 180 "$venv/bin/pip" -q install ior-parser==0.1.1 compspec-ior==0.0.1 'compspec<0.2' && {
            timeout 60 "$venv/bin/pip" -q install --no-deps iops-benchmark==3.5.10 || true
        } && ln -s bin/python "$venv/ready"
    } >/dev/null 2>&1
    [ ! -x "$venv/ready" ] || echo "$venv/bin/python"
}

by_srun
by_mpi
# By processes of the harness itself, if no launcher is here.
if [ ! -s ior.json ]; then
    h c bench ior -a HAYATE -np 3 -t 64k -b 1m -s 2 -w -r -R -C -k -o /f -O summaryFormat=JSON,summaryFile=ior.json >ior.txt
    h c bench mdtest -a HAYATE -np 3 -n 50 -F -u -N 1 -w 100 -e 100 -X -d /md >md.txt
fi

h c bench io500 -a HAYATE -np 2 --stonewall 1 --easy-block 64m --hard-segments 300 --easy-files 500 --hard-files 300 -d /io500 --resultdir "$BOX/results" \
    >io500.txt || fail "io500: $(tail -5 io500.txt)"
[ "$(grep -c '^\[RESULT\]' io500.txt)" = 12 ] || fail "not twelve results: $(cat io500.txt)"
grep -q '^ERROR INVALID no sync at the end of mdtest writes' io500.txt || fail "nobody says that writes of mdtest were not synced: $(cat io500.txt)"
grep -q '^\[SCORE \] Bandwidth .*\[INVALID\]$' io500.txt || fail "no score, or not marked: $(cat io500.txt)"
[ -z "$(h c ls h:/io500)" ] || fail "data is left"
configured io500.txt
note "$(grep '^\[SCORE' io500.txt)"
python=$(readers)
"${python:-python3}" "$E2E/parsers.py" ior.txt ior.json md.txt results/*/result.txt >parsers.txt 2>&1 ||
    fail "a script that reads IOR's, mdtest's or IO500's output does not understand ours: $(cat parsers.txt)"
while read -r line; do MISSING+=("${line#MISSING: }"); done < <(grep '^MISSING: ' parsers.txt)
note "read by $(grep -v '^MISSING' parsers.txt | tr '\n' ',' | sed 's/,$//')"

# Servers that stand for nodes: each task is a client of its own one, so a file in layout `local` lies there, whole; told as nodes, and where tasks are.
h c mkdir --layout local /spread
h c bench ior -a HAYATE -np 4 --spread -F -C -w -r -R -t 64k -b 1m -o /spread/f -O summaryFormat=JSON,summaryFile=spread.json >spread.txt || fail "--spread: $(cat spread.txt)"
grep -q '^nodes               : 4$' spread.txt && grep -q '^clients per node    : 1$' spread.txt && grep -q '^layout              : local' spread.txt &&
    grep -q '^spread              : servers stand for nodes: task r is a client of server r / 1,' spread.txt || fail "the text does not tell of the nodes: $(cat spread.txt)"
python3 - <<'PY' || fail "tasks are not clients of one server each: $(cat spread.txt)"
import json
write = json.load(open("spread.json"))["tests"][0]["Results"][0]
assert [server["bytes_written"] for server in write["hayateServers"]["each"]] == 4 * [1 << 20], write["hayateServers"]
PY
h c bench mdtest -a HAYATE -np 8 --spread -n 10 -F -N 1 -d /spread/md >spread.txt || fail "mdtest --spread: $(cat spread.txt)"
grep -q 'with 8 total task(s) on 4 node(s)' spread.txt && grep -q '^Nodemap: 11000000$' spread.txt && grep -q '^Shifting ranks by 2 for each phase.$' spread.txt ||
    fail "mdtest does not tell of the nodes: $(cat spread.txt)"

# on_hosts "HOST..." WORDS...: ranks of a benchmark, one on each of these hosts, as a launcher would start them there; a name with * is of a host with a boot of its own, which finds
# rank 0 by the name of its host. What rank 0 says is in hosts.txt, and its exit status is the result.
on_hosts() {
    local hosts=() rank pids=() code=0
    read -ra hosts <<<"$1"; shift
    rm -f hosts.txt hosts.err
    for rank in "${!hosts[@]}"; do
        # Rank 0 is as the launcher's own host is: what it says is read here.
        PMI_RANK=$rank PMI_SIZE=${#hosts[@]} HAYATE_BENCH_RENDEZVOUS=$BOX/meet timeout -k 5 "${WITHIN:-120}" unshare --uts --mount sh -c '
            echo "${1%\*}" >/proc/sys/kernel/hostname
            mount --bind "$0/known-hosts" /etc/hosts
            [ "$1" = "${1%\*}" ] || mount --bind "$0/other-boot" /proc/sys/kernel/random/boot_id
            shift; exec "$@"' "$BOX" "${hosts[rank]}" "$HAYATE" bench "$@" >"hosts-$rank.txt" 2>"hosts-$rank.err" &
        pids+=($!)
    done
    for rank in "${!hosts[@]}"; do
        if [ "$rank" = 0 ]; then wait "${pids[0]}" || code=$?; else wait "${pids[rank]}" || true; fi
    done
    cat hosts-0.txt hosts-0.err >hosts.txt
    # Who is ended by a signal leaves it.
    [ ! -e "$BOX/meet" ] || [ "$code" = 124 ] || fail "a rendezvous file is left"
    return "$code"
}

# shown TEXT: rank 0 said this line.
shown() { grep -qxF "$1" hosts.txt || fail "on $hosts no line '$1': $(cat hosts.txt)"; }

# by_hosts "HOST..." MAP STEP PER-NODE READER: what four ranks on two hosts do: who reads the file of rank 3 with -C is a step before it.
by_hosts() {
    local hosts=$1 map=$2 step=$3 each=$4 reader=$5 ior
    ior="ior -F -t 64k -b 256k -o $BOX/hosts/f -C"
    rm -rf "$BOX/hosts"
    mkdir "$BOX/hosts"
    # shellcheck disable=SC2086
    on_hosts "$hosts" $ior -w -W -r -R -k -G 7 || fail "ior on $hosts: $(cat hosts.txt)"
    shown "nodes               : 2"
    shown "tasks               : 4"
    shown "clients per node    : $each"
    shown "wrong words         : 0"
    ! grep -q 'may come from the page cache' hosts.txt || fail "what another host wrote does not come from the cache of this: $(cat hosts.txt)"
    # Clocks of two hosts are one: a phase takes as long as it took.
    awk '$1 == "read" && $11 == 0 { seen = 1; if ($10 > 30) exit 1 } END { exit !seen }' hosts.txt || fail "times on $hosts: $(cat hosts.txt)"
    rm "$BOX/hosts/f.00000003"
    # shellcheck disable=SC2086
    if on_hosts "$hosts" $ior -r -k -G 7; then fail "a file that is not there was read: $(cat hosts.txt)"; fi
    grep -q "task $reader failed: cannot open .*f.00000003" hosts.txt || fail "on $hosts another task than $reader read what task 3 wrote: $(cat hosts.txt)"
    on_hosts "$hosts" mdtest -n 20 -F -u -N 1 -w 100 -e 100 -X -d "$BOX/hosts/md" || fail "mdtest on $hosts: $(cat hosts.txt)"
    grep -q 'was launched with 4 total task(s) on 2 node(s)$' hosts.txt || fail "mdtest on $hosts: $(cat hosts.txt)"
    shown "Nodemap: $map"
    shown "Shifting ranks by $step for each phase."
    note "four ranks on $hosts: -C and -N shift by $step"
}

hosts() {
    is_root || { MISSING+=("this user is not root, who names hosts: several hosts"); return 0; }
    unshare --uts --mount true 2>/dev/null || { MISSING+=("there are no namespaces of host names: several hosts"); return 0; }
    sed 's/^./f/' /proc/sys/kernel/random/boot_id >other-boot
    cmp -s other-boot /proc/sys/kernel/random/boot_id && sed 's/^./e/' /proc/sys/kernel/random/boot_id >other-boot
    printf '127.0.0.1 localhost alpha beta\n' >known-hosts
    by_hosts "alpha alpha beta beta" 1100 2 2 1
    by_hosts "alpha beta alpha beta" 1010 1 2 2
    by_hosts "alpha alpha alpha beta" 1110 3 3 0
    by_hosts "alpha alpha beta* beta*" 1100 2 2 1
    # By the name of the host, and only so: one that nobody knows is not found.
    printf '127.0.0.1 localhost beta\n' >known-hosts
    local code=0
    WITHIN=4 on_hosts "alpha beta*" ior -t 64k -b 256k -o "$BOX/hosts/g" || code=$?
    [ $code = 124 ] || fail "rank 1 found a host that it cannot know: $(cat hosts.txt)"
}
hosts

# What a mount's process costs is told beside what clients and servers do, here by POSIX on a mount; without --servers, that theirs is missing.
on_a_mount() {
    { : <>/dev/fuse; } 2>/dev/null || { MISSING+=("/dev/fuse cannot be opened by this user: the cost of a mount"); return 0; }
    is_root || command -v fusermount3 >/dev/null || { MISSING+=("fusermount3 is not installed: the cost of a mount"); return 0; }
    local words=(bench ior -a POSIX -np 2 -F -e -t 64k -b 8m -o "$BOX/c/m/f" -O "summaryFormat=JSON,summaryFile=mount.json")
    mount_on c "$BOX/c/m"
    h c "${words[@]}" --servers >mount.txt || fail "ior on a mount: $(cat mount.txt)"
    awk '/^clients. cost / { at = 1 } /^mount.s cost / { at += at == 1 } /^servers. cost / { at += at == 2 } at == 2 && $1 == "write" && $3 > 0 { found = 1 } END { exit !(found && at == 3) }' mount.txt ||
        fail "no cost of the mount between clients and servers: $(cat mount.txt)"
    python3 - <<'PY' || fail "the JSON does not tell of the mount: $(cat mount.txt)"
import json
of = lambda name: json.load(open(name))["tests"][0]["Results"][0]["hayateMountCpuSeconds"]
assert 0 < of("mount.json") < 60 and of("spread.json") is None, (of("mount.json"), of("spread.json"))
PY
    ! grep -q '^note: CPU time' mount.txt || fail "all was found, and a note says otherwise: $(cat mount.txt)"
    h c "${words[@]}" >mount.txt || fail "ior on a mount: $(cat mount.txt)"
    grep -q '^note: CPU time of servers behind the mount is not counted (--servers)$' mount.txt || fail "nobody says that servers are not counted: $(cat mount.txt)"
    note "on a mount: $(grep -A 1 "^mount's cost" mount.txt | tail -1)"
    h c umount "$BOX/c/m" >/dev/null
}
on_a_mount

# mdtest's other ways with the native client: mknod, shared files, task 0 for all, renames; whatever was made is removed again.
for way in "-F -k" "-S -w 100 -e 100 -X" "-c -w 100 -e 100 -X --verify-write" "-D -C -T -U -r -l 3"; do
    # shellcheck disable=SC2086
    h c bench mdtest -a HAYATE -np 3 -n 20 -d /ways $way >way.txt 2>&1 || fail "mdtest $way: $(tail -5 way.txt)"
done
[ -z "$(h c ls h:/ways)" ] || fail "data is left in /ways"

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
configuration = run["configuration"]
assert configuration["layout"].startswith("striped") and configuration["servers"]["silent"] == 0, configuration
for server in configuration["servers"]["each"]:
    said = {key: server[key] for key in ("durability", "memoryBytes", "capacityBytes", "inlineBytes", "hotFiles", "workers")}
    assert said == {"durability": "device", "memoryBytes": 300 << 20, "capacityBytes": 6 << 30, "inlineBytes": 8192, "hotFiles": False, "workers": 2}, said
assert any("the recovery reads may come from" in note for note in run["warnings"]) or all(server["io"] == ["direct"] for server in configuration["servers"]["each"]), run["warnings"]
PY
note "$(grep '^recovery  *:' ck.txt)"

h c bench dataset -a HAYATE -np 2 --files 40 --samples-per-file 3 --sample 10k --batch 8 --compute-ms 2 -i 2 -R -d /set --json set.json >set.txt ||
    fail "dataset: $(tail -5 set.txt)"
grep -q '^epoch  *samples/s  *MiB/s  *AU mean(%)' set.txt || fail "no epochs: $(cat set.txt)"
h c bench compare set.json set.json >compare.txt || fail "compare: $(cat compare.txt)"
grep -q '^accelerator utilisation .* 1.000 within the spread$' compare.txt || fail "a run is not like itself: $(cat compare.txt)"
h c bench report page.html ior.json ck.json set.json --svg charts >/dev/null || fail "no report"
[ "$(grep -o '<svg' page.html | wc -l)" -ge 5 ] && [ -n "$(ls charts/*.svg)" ] || fail "too few charts"
[ ${#MISSING[@]} = 0 ] || skip "shown with what is here; $(IFS=';'; echo "${MISSING[*]}")"
