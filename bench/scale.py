#!/usr/bin/env python3
"""Measures the costs that the scale model stands on, and compares the model with real runs at 1 to 8 servers.

    cargo build --release && bench/scale.py --update docs/performance.md         a quarter of an hour and 5 GB, on a machine with nothing else to do
    bench/scale.py --calibrate bench/src/scale/calibration.json                  and keep the costs: the program has them built in, so build it again

Of opens two things are compared: the rate of plain ones, as of writes and creates, and which part of the opens of one file by all nodes its home answers (decision 0038).
`cargo build --release -p fs-client --example readers` first.

A drain is compared with 1, 2, 4 and 8 servers, too: everything is written while nothing is flushed, and `hayate flush --wait` is timed, with a local directory as the shared
tier. How fast that directory is comes from the first of these runs, the CPU time of a flushed MiB from the calibration.

Costs are CPU time of clients and servers of a cluster of one server, by two processes; what passing on costs is measured with two servers, of which
the client may use one only. Then the model says how long other runs take, with 1, 2, 4 and 8 servers and with 1, 2 and 4 processes, all on
this one host, and each is run. Of several rounds that one counts during which other programs took the least CPU time (never the one with the best result); how
much they took is shown, for it is missing to the run and not to the model.

An error has two sources, which are told apart: that a message costs another amount of CPU time there than in the calibration, and that queues are not as the model has
them. So the model is asked twice, with the costs of the calibration, and with those of the run itself: what is wrong then is the queues' part.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import bed
from bed import MIB, Cluster, commit, run, table

CREATES = "File creation"
OPENS = "File read"
# Longer than any run: what is written waits until it is told to go.
NEVER_MS = 86_400_000
# `flush --wait` has an effect for some seconds (fs-server/src/flush/mod.rs, HURRY_LASTS): what is written meanwhile would not wait.
HURRY_S = 6
# Files of a drain: each server is to have some to direct.
FILES = 16


def own_us(awake, pids):
    """CPU time of this script, of what it started and has ended, of servers, and of the processes that keep CPUs awake."""
    return sum(map(bed.cpu_us, [process.pid for process in awake.spinners] + pids)) + bed.own_us()


class Others:
    """How many CPUs other programs use, from when it is made."""

    def __init__(self, awake, pids):
        self.own_us = lambda: own_us(awake, pids)
        self.began, self.busy, self.own = time.monotonic(), bed.busy_us(), self.own_us()

    def cpus(self):
        others = bed.busy_us() - self.busy - (self.own_us() - self.own)
        return max(0.0, others / ((time.monotonic() - self.began) * 1e6))


class Runs:
    """Clusters of several sizes, and benchmarks on them."""

    def __init__(self, options, stack, awake):
        self.options, self.awake, self.number = options, awake, 0
        self.clusters = {nodes: stack.enter_context(Cluster(options, f"scale{nodes}")).up(nodes) for nodes in options.nodes}

    def bench(self, nodes, words, env=None):
        """The JSON document of a run on a cluster, and how many CPUs others used meanwhile."""
        cluster = self.clusters[nodes]
        self.number += 1
        path = cluster.dir / f"{self.number}.json"
        where = ["-O", f"summaryFormat=JSON,summaryFile={path}"] if words[0] == "ior" else ["--json", path]
        others = Others(self.awake, [pid for cluster in self.clusters.values() for pid in cluster.pids])
        cluster.command("bench", *words, "-a", "HAYATE", *where, env=env)
        return json.loads(path.read_text()), others.cpus()

    def rounds(self, nodes, words, env=None):
        """The least disturbed of the rounds. Each has files of its own: `{}` in the words is its number."""
        runs = []
        for _ in range(self.options.rounds):
            runs.append(self.bench(nodes, [str(word).replace("{}", str(self.number)) for word in words], env))
        return min(runs, key=lambda run: run[1])

    def write(self, nodes, tasks, env=None):
        words = ["ior", "-w", "-t", "1m", "-b", f"{self.options.mib // tasks}m", "-np", tasks, "-o", "/w{}"]
        document, others = self.rounds(nodes, words, env)
        return document["tests"][0]["Results"][0], others

    def metadata(self, nodes, tasks, env=None):
        words = ["mdtest", "-F", "-C", "-E", "-r", "-n", self.options.files, "-np", tasks, "-d", "/m{}"]
        document, others = self.rounds(nodes, words, env)
        return {result["operation"]: result for result in document["Results"]}, others


def cpu(result, unit_bytes=None):
    """CPU time in us of clients and of servers, for each operation or MiB."""
    units = result["hayateBytes"] / MIB if unit_bytes else result["hayateOperations"]
    return result["hayateCpuSeconds"] * 1e6 / units, result["hayateServers"]["cpuSeconds"] * 1e6 / units


def calibrate(runs):
    """The costs, from runs with one server and two processes, and with two servers and one gateway."""
    write, metadata = runs.write(1, 2)[0], runs.metadata(1, 2)[0]
    # With one gateway, half of the messages are passed on: of the difference each of those has twice.
    through = {"HAYATE_GATEWAY": "0"}
    passed, straight = runs.write(2, 2, through)[0], runs.write(2, 2)[0]
    passed_small, straight_small = runs.metadata(2, 2, through)[0][OPENS], runs.metadata(2, 2)[0][OPENS]
    costs, create, opened = cpu(write, unit_bytes=True), cpu(metadata[CREATES]), cpu(metadata[OPENS])
    more = sum(cpu(passed, unit_bytes=True)) - sum(cpu(straight, unit_bytes=True))
    more_small = sum(cpu(passed_small)) - sum(cpu(straight_small))
    # Elapsed time of an operation that no CPU time of its own explains: waiting to be woken, and with a write for the page cache and the device, too.
    wake = max(0.0, 2e6 / metadata[CREATES]["opsPerSecond"] - sum(create))
    wait = max(0.0, 2e6 / write["bwMiB"] - sum(costs) - wake)
    return {
        "machine": f"{len(os.sched_getaffinity(0))} x {platform.machine()}, Linux {platform.release()}, all on one host, CPUs kept awake; commit {commit()}",
        "write_client_us_mib": costs[0],
        "write_server_us_mib": costs[1],
        "write_wait_us_mib": wait,
        "forward_us_mib": max(0.0, 2 * more),
        "create_client_us": create[0],
        "create_server_us": create[1],
        "open_client_us": opened[0],
        "open_server_us": opened[1],
        "forward_us": max(0.0, 2 * more_small / 2),
        "flush_us_mib": max(0.0, written_and_flushed(runs) - costs[1]),
        "wake_us": wake,
    }


def written_and_flushed(runs):
    """CPU time in us of a server for each MiB that it takes and copies to a tier, which is a directory here. Copying begins when it likes."""
    with Cluster(runs.options, "scaleflush") as cluster:
        cluster.up(1, tier=True)
        before = cluster.status()[0]
        cluster.command("bench", "ior", "-a", "HAYATE", "-w", "-k", "-t", "1m", "-b", f"{runs.options.mib}m", "-o", "/f")
        cluster.command("flush", "--wait")
        after = cluster.status()[0]
    mib = (after["flush"]["copied_bytes"] - before["flush"]["copied_bytes"]) / MIB
    assert mib >= runs.options.mib, f"only {mib} MiB were copied"
    return (after["cpu_us"] - before["cpu_us"]) / mib


def ask(options, costs, *words):
    """The model's answers on this host, by question."""
    with tempfile.TemporaryDirectory(prefix="hayate-scale-") as box:
        calibration, out = Path(box) / "costs.json", Path(box) / "out.json"
        calibration.write_text(json.dumps(costs))
        cores = len(os.sched_getaffinity(0))
        words = [options.hayate, "bench", "scale", "--calibration", calibration, "--hosts", "1", "--cores", cores, "--nic", "0", "--device", "0", "--latency", "0", *words]
        run([*words, "--simulated", "100000", "--json", out])
        return {answer["question"]: answer["prediction"] for answer in json.loads(out.read_text())["answers"]}


def predict(options, costs, nodes, tasks):
    """(MiB/s of the write, creates and opens a second) by the model, with as many clients as there are processes, each one operation at a time."""
    words = ["--nodes", nodes, "--chunk", "1m", "--window", "1", "--clients", tasks, "--memory", f"{options.mib // tasks}m", "--processes", options.files]
    answers = ask(options, costs, *words)
    rate = lambda question, amount: amount / answers[question]["seconds"]
    files = options.files * tasks
    return rate("dump into one file", options.mib // tasks * tasks), rate("create by every process", files), rate("open by all at once", files)


def own_costs(costs, write, create, opened):
    """The costs of the calibration, with those of a run of its own in their place."""
    mine = dict(zip(("write_client_us_mib", "write_server_us_mib"), cpu(write, unit_bytes=True), strict=True))
    mine |= dict(zip(("create_client_us", "create_server_us"), cpu(create), strict=True))
    mine |= dict(zip(("open_client_us", "open_server_us"), cpu(opened), strict=True))
    return {**costs, **mine}


def validate(runs, costs):
    options, rows = runs.options, []
    errors = {"as calibrated": [], "by queues alone": []}
    for nodes, tasks in [(n, t) for n, t in SIZES if n in options.nodes]:
        (write, disturbed), (metadata, disturbed_too) = runs.write(nodes, tasks), runs.metadata(nodes, tasks)
        create, opened = metadata[CREATES], metadata[OPENS]
        by_calibration, by_own = predict(options, costs, nodes, tasks), predict(options, own_costs(costs, write, create, opened), nodes, tasks)
        row = [f"{nodes}", f"{tasks}", f"{max(disturbed, disturbed_too):.2f}"]
        real_ones = [(write["bwMiB"], cpu(write, unit_bytes=True)), (create["opsPerSecond"], cpu(create)), (opened["opsPerSecond"], cpu(opened))]
        for at, (real, spent) in enumerate(real_ones):
            parts = [by_calibration[at] / real - 1, by_own[at] / real - 1]
            row += [f"{sum(spent):,.0f}", f"{real:,.0f}", f"{by_calibration[at]:,.0f}", *(f"{part:+.0%}" for part in parts)]
            # One server and two processes are the calibration itself.
            if (nodes, tasks) != (1, 2):
                for kind, part in zip(errors, parts, strict=True):
                    errors[kind].append(abs(part))
        rows.append(row)
        print(" ".join(row), file=sys.stderr)
    head = ["servers", "processes", "CPUs of others", "write: CPU us a MiB", "MiB/s", "model", "error", "of the queues"]
    head += [word for what in ("create", "open and close") for word in (f"{what}: CPU us", "/s", "model", "error", "of the queues")]
    words = [f"{kind}: median {statistics.median(sizes):.0%}, largest {max(sizes):.0%}" for kind, sizes in errors.items() if sizes]
    return f"{table(head, rows)}\n\nThe model's error {'; '.join(words)}. (The run with one server and two processes is the calibration, and not counted.)"


def drains(options, costs, awake):
    """The table of drains, and what the errors are."""
    rows, sizes, rate = [], [], None
    for nodes in options.nodes:
        dirty, seconds, spent, disturbed = drained(options, awake, nodes)
        # What the directory takes is known from the first: it is the calibration of this.
        rate = rate or dirty / seconds
        by_calibration, by_own = (predict_drain(options, c, nodes, dirty, rate) for c in (costs, {**costs, "flush_us_mib": spent}))
        parts = [by_calibration / seconds - 1, by_own / seconds - 1]
        if rows:
            sizes.append(parts)
        rows.append([f"{nodes}", f"{disturbed:.2f}", f"{dirty / MIB:,.0f}", f"{spent:,.0f}", f"{dirty / MIB / seconds:,.0f}", f"{seconds:.2f}", f"{by_calibration:.2f}", *(f"{part:+.0%}" for part in parts)])
        print("drain", " ".join(rows[-1]), file=sys.stderr)
    head = ["servers", "CPUs of others", "MiB to drain", "CPU us a MiB", "MiB/s", "seconds", "model", "error", "of the queues"]
    text = table(head, rows)
    if sizes:
        kinds = zip(("as calibrated", "by queues alone"), zip(*sizes, strict=True), strict=True)
        words = [f"{kind}: median {statistics.median(map(abs, of)):.0%}, largest {max(map(abs, of)):.0%}" for kind, of in kinds]
        text += f"\n\nThe model's error of drains {'; '.join(words)}. (The first of them is the calibration of the directory, {rate / MIB:,.0f} MiB/s, and not counted.)"
    return text


def drained(options, awake, nodes):
    """Bytes that were dirty, seconds, CPU time of the servers in us for each MiB, and CPUs of others, of the least disturbed drain of the rounds."""
    with Cluster(options, f"scaledrain{nodes}") as cluster:
        cluster.up(nodes, "--flush-delay", NEVER_MS, tier=True)
        rounds = []
        for number in range(options.rounds):
            if number:
                time.sleep(HURRY_S)
            rounds.append(drain(options, awake, cluster, f"/d{number}"))
    return min(rounds, key=lambda each: each[3])


def drain(options, awake, cluster, name):
    """One of them; afterwards the cluster and the directory are as they were."""
    cluster.command("mkdir", name)
    block = f"{options.drain_mib // FILES}m"
    cluster.command("bench", "ior", "-a", "HAYATE", "-w", "-k", "-F", "-t", "1m", "-b", block, "-np", FILES, "-o", f"{name}/f")
    os.sync()
    bed.warm_memory(options.drain_mib * MIB)
    flushed = lambda what: sum(status["flush"][what] for status in cluster.status())
    size, until = options.drain_mib * MIB, time.monotonic() + 10
    # Servers count what waits now and then.
    while (dirty := flushed("pending_bytes")) != size:
        if time.monotonic() > until:
            sys.exit(f"{dirty / MIB:.1f} of {options.drain_mib} MiB wait to be flushed")
        time.sleep(0.1)
    copied = flushed("copied_bytes")
    others, cpu, began = Others(awake, cluster.pids), cluster.cpu_s(), time.monotonic()
    cluster.command("flush", "--wait")
    seconds, cpu = time.monotonic() - began, cluster.cpu_s() - cpu
    cpus, copied = others.cpus(), flushed("copied_bytes") - copied
    there = sum(path.stat().st_size for path in (cluster.tier / name[1:]).iterdir())
    if copied < size or there != size:
        sys.exit(f"{copied} bytes were copied and {there} are there, of {size}")
    cluster.command("rm", "-r", name)
    cluster.command("flush", "--wait")
    return size, seconds, cpu * 1e6 / options.drain_mib, cpus


def predict_drain(options, costs, nodes, dirty, rate):
    """Seconds by the model. All nodes are on one host, so one station is the directory for all of them."""
    words = ["--nodes", nodes, "--chunk", "1m", "--memory", dirty // nodes, "--processes", "1", "--tier", f"{rate / 1e9:.6f}"]
    return ask(options, costs, *words)["drain"]["seconds"]


def storms(options, costs):
    """A file that all processes of all nodes open at one moment (`bench/hot.py --small` shows more of it), with hot names and without: how many opens its home answers, as counted and by
    the model. Seconds of such a run are those of programs that start, and nothing to compare with."""
    rows, nodes, readers = [], options.storm, 64 if not options.quick else 2
    for kind, up, words in [("lent to each node's server", [], []), ("each asks the home", ["--hot-files", "off"], ["--no-hot-names"])]:
        with Cluster(options, "scalestorm") as cluster:
            cluster.up(nodes, "--memory", "256M", *up)
            through = {"HAYATE_GATEWAY": "0"}
            cluster.command("mkdir", "/d", env=through)
            (cluster.dir / "source").write_bytes(os.urandom(4096))
            cluster.command("cp", cluster.dir / "source", "hayate:/d/f", env=through)
            before = opens(cluster)
            storm(cluster, options, nodes, readers)
            counted = max(after - then for after, then in zip(opens(cluster), before, strict=True))
        answers = ask(options, costs, "--nodes", nodes, "--processes", readers, "--memory", "64m", "--chunk", "1m", *words)
        asked = answers["open by all at once"]["asked"]
        all_of = nodes * readers
        rows.append([kind, f"{nodes} x {readers}", f"{counted:,} ({counted / all_of:.0%})", f"{asked:,} ({asked / all_of:.0%})"])
    return table(["one file", "nodes x processes", "opens answered by its home", "by the model"], rows)


def opens(cluster):
    """Opens that each server carried out so far."""
    return [sum(status["operations"].get(name, 0) for name in ("open", "openread")) for status in cluster.status()]


def storm(cluster, options, nodes, readers):
    """All readers open the file at the same moment, each a client of its own, through the server of its node."""
    begin = int(1000 * (time.time() + 1.5 + nodes * readers / 2000))
    started = []
    for node in range(nodes):
        words = [bed.example(options, "readers"), cluster.file, "/d/f", readers, begin, "each"]
        started.append(subprocess.Popen(list(map(str, words)), env={**os.environ, "HAYATE_GATEWAY": str(node)}, stdout=subprocess.DEVNULL))
    if any([process.wait() for process in started]):
        sys.exit("a reader failed")


# Servers and processes of the runs.
SIZES = [(1, 1), (1, 2), (1, 4), (2, 2), (4, 1), (4, 2), (4, 4), (8, 2), (8, 4)]


def main():
    parser = bed.parser(__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--calibrate", type=Path, help="keep the costs in this file")
    parser.add_argument("--drain-mib", type=int, default=1024, help="bytes of a drain in MiB, in all")
    parser.add_argument("--storm", type=int, default=8, metavar="N", help="nodes of the storm of opens")
    options = bed.parse(parser, nodes=[1, 2], rounds=1, mib=8, files=100, drain_mib=16, storm=3)
    with bed.Awake() as awake, ExitStack() as stack:
        runs = Runs(options, stack, awake)
        costs = {key: round(value, 1) if isinstance(value, float) else value for key, value in calibrate(runs).items()}
        if options.calibrate:
            options.calibrate.write_text(json.dumps(costs, indent=2) + "\n")
            if options.calibrate.resolve() == bed.CALIBRATION:
                print("the costs are built into the program: build it again (cargo build --release)", file=sys.stderr)
        compared = validate(runs, costs)
    with bed.Awake() as awake:
        drained_too = drains(options, costs, awake)
    stormed = storms(options, costs)
    sizes = f"{options.mib} MiB by transfers of 1 MiB, {options.files:,} files a process, the least disturbed of {options.rounds} rounds."
    bed.update(options, "scale", f"{costs['machine']}; {sizes}\n\n{compared}\n\n{drained_too}\n\n{stormed}")


if __name__ == "__main__":
    main()
