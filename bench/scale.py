#!/usr/bin/env python3
"""Measures the costs that the scale model stands on, and compares the model with real runs at 1 to 8 servers.

    cargo build --release && bench/scale.py --update docs/performance.md
    bench/scale.py --calibrate bench/src/scale/calibration.json      and keep the costs: the program has them built in

Costs are CPU time of clients and servers of a cluster of one server, by two processes; what passing on costs is measured with two servers, of which
the client may use one only. Then the model says how long other runs take, with 1, 2, 4 and 8 servers and with 1, 2 and 4 processes, all on
this one host, and each is run. The error is told for each; none of these runs is part of the calibration but those with one server and two
processes. Of several rounds the fastest counts: what else a shared machine does makes all of them slower, never faster.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from perf import Bed, commit, run, table, update

HERE = Path(__file__).resolve().parent.parent
CREATES = "File creation"
OPENS = "File read"


class Runs:
    """Clusters of several sizes, and benchmarks on them."""

    def __init__(self, options):
        self.options = options
        options.regime, options.memory, options.no_mount = "awake", None, True
        self.bed = Bed(options)
        self.number = 0

    def bench(self, nodes, words, env=None):
        """The JSON document of a run on a cluster."""
        cluster = next(c for c in self.bed.clusters if c.nodes == nodes)
        self.number += 1
        path = self.bed.dir / f"{self.number}.json"
        where = ["-O", f"summaryFormat=JSON,summaryFile={path}"] if words[0] == "ior" else ["--json", path]
        run([self.bed.hayate, "--cluster", cluster.file, "bench", *words, "-a", "HAYATE", *where], {**os.environ, **(env or {})})
        return json.loads(path.read_text())

    def write(self, nodes, tasks, env=None):
        mib = self.options.mib // tasks
        document = self.bench(nodes, ["ior", "-w", "-t", "1m", "-b", f"{mib}m", "-np", str(tasks), "-o", f"/w{self.number}"], env)
        return document["tests"][0]["Results"][0]

    def metadata(self, nodes, tasks, env=None):
        words = ["mdtest", "-F", "-C", "-E", "-r", "-n", str(self.options.files), "-np", str(tasks), "-d", f"/m{self.number}"]
        results = self.bench(nodes, words, env)["Results"]
        return {result["operation"]: result for result in results}


def cpu(result, unit_bytes=None):
    """CPU time in us of clients and of servers, for each operation or MiB."""
    units = result["hayateBytes"] / (1 << 20) if unit_bytes else result["hayateOperations"]
    return result["hayateCpuSeconds"] * 1e6 / units, result["hayateServers"]["cpuSeconds"] * 1e6 / units


def least_cpu(results, **kind):
    """Of the run that cost least: whatever else the machine does makes it more, never less."""
    return min((cpu(result, **kind) for result in results), key=sum)


def calibrate(runs):
    """The costs, from runs with one server and two processes, and with two servers and one gateway."""
    rounds = range(runs.options.rounds)
    writes = [runs.write(1, 2) for _ in rounds]
    metadata = [runs.metadata(1, 2) for _ in rounds]
    # With one gateway, half of the messages are passed on: of the difference each of those has twice.
    through = {"HAYATE_GATEWAY": "0"}
    passed = [runs.write(2, 2, through) for _ in rounds]
    straight = [runs.write(2, 2) for _ in rounds]
    passed_small = [runs.metadata(2, 2, through)[OPENS] for _ in rounds]
    straight_small = [runs.metadata(2, 2)[OPENS] for _ in rounds]
    write, create, opened = least_cpu(writes, unit_bytes=True), least_cpu([m[CREATES] for m in metadata]), least_cpu([m[OPENS] for m in metadata])
    more = sum(least_cpu(passed, unit_bytes=True)) - sum(least_cpu(straight, unit_bytes=True))
    more_small = sum(least_cpu(passed_small)) - sum(least_cpu(straight_small))
    # Elapsed time of an operation that no CPU time of its own explains: waiting to be woken.
    elapsed = min(2e6 / m[CREATES]["opsPerSecond"] for m in metadata)
    return {
        "machine": f"{len(os.sched_getaffinity(0))} x {platform.machine()}, Linux {platform.release()}, all on one host, CPUs kept awake; commit {commit()}",
        "write_client_us_mib": write[0],
        "write_server_us_mib": write[1],
        "forward_us_mib": max(0.0, 2 * more),
        "create_client_us": create[0],
        "create_server_us": create[1],
        "open_client_us": opened[0],
        "open_server_us": opened[1],
        "forward_us": max(0.0, 2 * more_small / 2),
        "flush_us_mib": max(0.0, written_and_flushed(runs) - write[1]),
        "wake_us": max(0.0, elapsed - sum(create)),
    }


def written_and_flushed(runs):
    """CPU time in us of a server for each MiB that it takes and copies to a tier, which is a directory here. Copying begins when it likes."""
    store, tier, file = (runs.bed.dir / name for name in ("flush-store", "flush-tier", "flush.toml"))
    tier.mkdir()
    hayate = [runs.bed.hayate, "--cluster", file]
    run([*hayate, "up", "--nodes", "1", "--store", store, "--tier", tier, "--name", "flushcost"])
    try:
        state = lambda: json.loads(run([*hayate, "status", "--json"]))["servers"][0]["status"]
        before = state()
        run([*hayate, "bench", "ior", "-a", "HAYATE", "-w", "-k", "-t", "1m", "-b", f"{runs.options.mib}m", "-o", "/f"])
        run([*hayate, "flush", "--wait"])
        after = state()
        mib = (after["flush"]["copied_bytes"] - before["flush"]["copied_bytes"]) / (1 << 20)
        assert mib >= runs.options.mib, f"only {mib} MiB were copied"
        return (after["cpu_us"] - before["cpu_us"]) / mib
    finally:
        run([*hayate, "down", "--discard"])


def predict(options, calibration, nodes, tasks):
    """(MiB/s of the write, creates a second) by the model, with as many clients as there are processes, each one operation at a time."""
    out = Path(tempfile.mkdtemp(prefix="hayate-scale-")) / "out.json"
    cores = str(len(os.sched_getaffinity(0)))
    words = [options.hayate, "bench", "scale", "--calibration", calibration, "--nodes", str(nodes), "--hosts", "1", "--cores", cores, "--nic", "0", "--device", "0"]
    words += ["--latency", "0", "--chunk", "1m", "--window", "1", "--clients", str(tasks), "--memory", f"{options.mib // tasks}m", "--processes", str(options.files)]
    run([*words, "--simulated", "100000", "--json", out])
    answers = {a["question"]: a["prediction"] for a in json.loads(out.read_text())["answers"]}
    out.unlink()
    out.parent.rmdir()
    rate = lambda question, amount: amount / answers[question]["seconds"]
    return rate("dump into one file", options.mib // tasks * tasks), rate("create by every process", options.files * tasks)


def validate(runs, calibration):
    options, rows, errors = runs.options, [], []
    for nodes, tasks in [(1, 1), (1, 2), (1, 4), (2, 2), (4, 1), (4, 2), (4, 4), (8, 2), (8, 4)]:
        writes = [runs.write(nodes, tasks)["bwMiB"] for _ in range(options.rounds)]
        creates = [runs.metadata(nodes, tasks)[CREATES]["opsPerSecond"] for _ in range(options.rounds)]
        row = [f"{nodes}", f"{tasks}"]
        for real, model in zip((max(writes), max(creates)), predict(options, calibration, nodes, tasks), strict=True):
            errors.append(model / real - 1)
            row += [f"{real:,.0f}", f"{model:,.0f}", f"{model / real - 1:+.0%}"]
        rows.append(row)
    head = ["servers", "processes", "write, MiB/s", "model", "error", "creates, /s", "model", "error"]
    sizes = sorted(abs(error) for error in errors)
    words = f"The model's error: median {statistics.median(sizes):.0%}, largest {sizes[-1]:.0%}."
    return f"{table(head, rows)}\n\n{words}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hayate", type=Path, default=HERE / "target/release/hayate")
    parser.add_argument("--dir", default=None, help="where stores go (default: the temporary directory)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--calibrate", type=Path, help="keep the costs in this file")
    parser.add_argument("--update", help="document that has the table between its marks")
    options = parser.parse_args()
    runs = Runs(options)
    try:
        runs.bed.start()
        costs = calibrate(runs)
        kept = options.calibrate or runs.bed.dir / "calibration.json"
        kept.write_text(json.dumps({key: round(value, 1) if isinstance(value, float) else value for key, value in costs.items()}, indent=2) + "\n")
        text = f"{costs['machine']}; {options.mib} MiB by transfers of 1 MiB, {options.files:,} files a process, the least disturbed of {options.rounds}.\n\n{validate(runs, kept)}"
    finally:
        runs.bed.stop()
    print(text)
    if options.update:
        update(options.update, "scale", text)


if __name__ == "__main__":
    main()
