#!/usr/bin/env python3
"""The figures of docs/performance.md: Hayate next to the bare local file system, in the same run.

Every round measures every target for every workload, targets one after the other (in turned order every second round), so
that a machine that slows down slows all of them down. Ratios are taken within a round; shown is their median over the rounds.

    bench/perf.py                                   print the tables
    bench/perf.py --update docs/performance.md      and put them there, between the marks of their regime

Regimes (a sleeping CPU of a virtual machine costs 50 to 80 us to wake, so every figure belongs to one):
    awake    loops of class SCHED_IDLE keep all CPUs from sleeping and take nothing from anybody
    idle     as it comes
    pinned   servers, mounts and clients all on CPU 0
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import bed
from bed import Cluster, busy_us, cpu_us, fine_cpu_us, run, spread, table, warm_memory

METADATA = {"create": "-C", "stat": "-T", "open, close": "-E", "remove": "-r"}
METADATA_ROWS = {"create": "File creation", "stat": "File stat", "open, close": "File read", "remove": "File removal"}
STREAMS = {
    "write, a file each": ["-F", "-w", "-k"],
    "read, a file each": ["-F", "-r", "-C"],
    "write, one file": ["-w", "-k"],
    "read, one file": ["-r", "-C"],
}
SEED = "7"


@dataclass
class Sample:
    """One workload on one target: rate in operations or MiB a second, CPU time in us of all processes that took part."""

    rate: float
    client_us: float
    mount_us: float
    server_us: float
    units: float
    messages: float | None


@dataclass
class Target:
    """Where a workload runs: the bare file system (no cluster), a mount, or the native client."""

    name: str
    cluster: Cluster | None
    native: bool
    root: str


class Mounted(Cluster):
    """Servers of a cluster, and its mount, a process of its own that is measured, too."""

    process = None

    def mount_it(self):
        spread(self.mount)
        self.process = subprocess.Popen([self.hayate, "--cluster", self.file, "mount", "--foreground", self.mount])
        deadline = time.monotonic() + 30
        while not os.path.ismount(self.mount):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{self.mount} is not mounted (use --no-mount where FUSE is not available)")
            time.sleep(0.02)

    def down(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
        super().down()


class Bed:
    """The clusters, their mounts and the bare directory, all below one temporary directory of the file system measured."""

    def __init__(self, options):
        self.options = options
        self.dir = Path(tempfile.mkdtemp(prefix="hayate-perf-", dir=options.dir))
        # A build that ends meanwhile must not change what is measured.
        options.hayate = self.hayate = shutil.copy2(options.hayate, self.dir / "hayate")
        self.clusters, self.targets, self.awake = [], [], bed.Awake()

    def start(self):
        if self.options.regime == "awake":
            self.awake.start()
        if self.options.regime == "pinned":
            os.sched_setaffinity(0, {0})
        spread(self.dir / "bare")
        self.targets.append(Target("bare", None, False, str(self.dir / "bare")))
        for nodes in self.options.nodes:
            cluster = self.up(nodes)
            servers = f"{nodes} server" + ("s" if nodes > 1 else "")
            self.targets.append(Target(f"{servers}, native", cluster, True, ""))
            if cluster.process:
                self.targets.append(Target(f"{servers}, mount", cluster, False, str(cluster.mount)))
            if self.options.inside:
                cluster = self.up(nodes, inside=True)
                self.targets.append(Target(f"{servers}, mount inside", cluster, False, str(cluster.mount)))

    def up(self, nodes, inside=False):
        cluster = Mounted(self.options, f"{nodes}-inside" if inside else f"{nodes}", self.dir)
        self.clusters.append(cluster)
        more = ["--memory", self.options.memory] if self.options.memory else []
        cluster.up(nodes, *more, *(["--mount-inside"] if inside else []), mount=inside)
        if not self.options.no_mount and not inside:
            cluster.mount_it()
        return cluster

    def stop(self):
        """Takes everything down that this run started, whatever has happened before."""
        for cluster in self.clusters:
            cluster.down()
        self.awake.stop()
        bed.remove(self.dir)

    def measure(self, target, args, parse):
        """Runs one benchmark on a target; what `parse` makes of its output, with the CPU time of everybody."""
        env = dict(os.environ)
        mount = servers = None
        if target.cluster:
            env["HAYATE_CLUSTER"] = str(target.cluster.file)
            servers = target.cluster.pids
            mount = target.cluster.process.pid if target.cluster.process and not target.native else None
        api = ["-a", "HAYATE" if target.native else "POSIX"]
        before = self.cpu(mount, servers)
        text = run([self.hayate, "bench", args[0], *api, *args[1:]], env)
        after = self.cpu(mount, servers)
        rate, client_us, units, messages = parse(text)
        return Sample(rate, client_us, after[0] - before[0], after[1] - before[1], units, messages)

    @staticmethod
    def cpu(mount, servers):
        return (fine_cpu_us(mount) if mount else 0.0, sum(map(fine_cpu_us, servers or [])))

    def own_cpu_us(self):
        """CPU time of this program and all that it started."""
        pids = [p.pid for p in self.awake.spinners] + [c.process.pid for c in self.clusters if c.process]
        pids += [pid for c in self.clusters for pid in c.pids]
        return sum(map(cpu_us, pids)) + bed.own_us()


def cost_row(text, row):
    """CPU time of the clients in us, and messages per operation, of a row of the table of costs."""
    found = re.findall(rf"^{row}\s+\d+\s+(\S+)\s+(\S+)\s+\S+\s+(\S+)\s+\d+$", text, re.M)
    if len(found) != 1:
        sys.exit(f"no line of costs of '{row}' in:\n{text}")
    seconds, _, messages = found[0]
    return float(seconds) * 1e6, None if messages == "-" else float(messages)


def parse_metadata(what, units):
    def parse(text):
        row = METADATA_ROWS[what]
        rate = float(re.search(rf"^\s+{row}\s+(\S+)", text, re.M)[1])
        client_us, messages = cost_row(text, row)
        return rate, client_us, units, messages

    return parse


def parse_stream(what, mib):
    def parse(text):
        access = what.split(",")[0]
        rate = float(re.search(rf"^{access}\s+(\S+)", text, re.M)[1])
        client_us, messages = cost_row(text, access)
        return rate, client_us, mib, messages

    return parse


def one_round(measured, number, samples):
    options = measured.options
    targets = measured.targets if number % 2 == 0 else measured.targets[::-1]
    tasks = ["-N", str(options.tasks)]
    roots = {}
    for target in targets:
        # A fresh directory each: nothing of the last round is in anybody's cache. The name decides where ext4 puts it, so it
        # must not be that of an earlier run either.
        roots[target.name] = f"{target.root}/{measured.dir.name}-{number}-{'native' if target.native else 'posix'}"
        make_dir(measured, target, roots[target.name])
    for what, switch in METADATA.items():
        for target in targets:
            args = ["mdtest", "-F", switch, "-n", str(options.files), "-d", roots[target.name], "-np", str(options.tasks)]
            parse = parse_metadata(what, options.files * options.tasks)
            samples[what][target.name].append(measured.measure(target, args, parse))
    block = options.mib // options.tasks
    for what, switches in STREAMS.items():
        for target in targets:
            args = ["ior", *switches, "-t", "1m", "-b", f"{block}m", "-G", SEED, "-o", f"{roots[target.name]}/data", *tasks]
            # The caches of mount and server, and reserve.
            warm_memory(3 * options.mib << 20)
            samples[what][target.name].append(measured.measure(target, args, parse_stream(what, block * options.tasks)))


def make_dir(measured, target, path):
    if target.native:
        run([measured.hayate, "--cluster", target.cluster.file, "mkdir", f"h:{path}"])
    else:
        os.mkdir(path)


def empty_samples(measured):
    return {what: {t.name: [] for t in measured.targets} for what in [*METADATA, *STREAMS]}


def measure_all(measured):
    """Samples by workload and target of the rounds that count, and how many CPUs others used in each of them.

    Of more rounds than wanted (--of), those count in which others took the least: chosen by what others did, never by results.
    """
    rounds = []
    one_round(measured, 0, empty_samples(measured))  # To warm up; never counts.
    total = max(measured.options.rounds, measured.options.of or 0)
    for number in range(1, total + 1):
        samples = empty_samples(measured)
        start, busy, own = time.monotonic(), busy_us(), measured.own_cpu_us()
        one_round(measured, number, samples)
        elapsed_us = (time.monotonic() - start) * 1e6
        others = max(0.0, (busy_us() - busy) - (measured.own_cpu_us() - own)) / elapsed_us
        rounds.append((others, number, samples))
        print(f"round {number} of {total}: others used {others:.2f} CPUs", file=sys.stderr)
    kept = sorted(rounds, key=lambda r: r[:2])[: measured.options.rounds]
    joined = empty_samples(measured)
    for _, _, samples in kept:
        for what, by_target in samples.items():
            for name, each in by_target.items():
                joined[what][name] += each
    return joined, [others for others, _, _ in kept]


def median_of(values, digits):
    return f"{statistics.median(values):,.{digits}f}"


def ratios(samples, names):
    rows = []
    for what, by_target in samples.items():
        row = [what]
        for name in names[1:]:
            each = [mine.rate / bare.rate for mine, bare in zip(by_target[name], by_target["bare"], strict=True)]
            row.append(f"{statistics.median(each):.0%} ({min(each):.0%} to {max(each):.0%})")
        rows.append(row)
    return table(["rate, share of bare", *names[1:]], rows)


def costs(samples, names):
    """CPU us per metadata operation or per MiB: client + mount + servers."""
    rows = []
    for what, by_target in samples.items():
        row = [what + (" (per MiB)" if what in STREAMS else "")]
        for name in names:
            each = by_target[name]
            parts = [[s.client_us / s.units for s in each]]
            if "mount" in name:
                parts.append([s.mount_us / s.units for s in each])
            if name != "bare":
                parts.append([s.server_us / s.units for s in each])
            row.append(" + ".join(median_of(part, 0 if what in STREAMS else 1) for part in parts))
        rows.append(row)
    return table(["CPU us per operation", *names], rows)


def per_gib(samples, names):
    """CPU seconds of everybody per GiB."""
    rows = []
    for what in STREAMS:
        row = [what]
        for name in names:
            each = [(s.client_us + s.mount_us + s.server_us) / s.units * 1024 / 1e6 for s in samples[what][name]]
            row.append(median_of(each, 2))
        rows.append(row)
    return table(["CPU seconds per GiB, all processes", *names], rows)


def rates(samples, names):
    rows = []
    for what, by_target in samples.items():
        row = [what + (", MiB/s" if what in STREAMS else ", /s")]
        for name in names:
            each = [s.rate for s in by_target[name]]
            row.append(f"{median_of(each, 0)} ({min(each):,.0f} to {max(each):,.0f})")
        rows.append(row)
    return table(["rate", *names], rows)


def conditions(options, others):
    o = options
    return (
        f"Regime `{o.regime}`; {bed.machine(o.dir or tempfile.gettempdir())}\n"
        f"{o.tasks} tasks, {o.files:,} empty files each in one directory, {o.mib} MiB by transfers of 1 MiB; {o.rounds} rounds"
        f"{f' (the least disturbed of {o.of})' if (o.of or 0) > o.rounds else ''}; "
        f"median (smallest to largest). Meanwhile other programs and the kernel's own threads used "
        f"{statistics.median(others):.2f} CPUs ({min(others):.2f} to {max(others):.2f})."
    )


def report(measured, samples, others):
    names = [target.name for target in measured.targets]
    parts = [
        conditions(measured.options, others),
        ratios(samples, names),
        "Client + mount + servers (the bare file system has only the client):",
        costs(samples, names),
        per_gib(samples, names),
        rates(samples, names),
    ]
    return "\n\n".join(parts)


def parse_options():
    parser = bed.parser(__doc__)
    parser.add_argument("--regime", choices=["awake", "idle", "pinned"], default="awake")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 4], help="servers of the clusters")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--of", type=int, help="measure so many rounds and keep those with the least foreign load")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--files", type=int, default=4000, help="files of each task")
    parser.add_argument("--mib", type=int, default=512, help="MiB of all tasks together")
    parser.add_argument("--memory", help="budget of each server")
    parser.add_argument("--no-mount", action="store_true", help="without mounts")
    parser.add_argument("--inside", action="store_true", help="also clusters whose first server is the mount, too")
    parser.add_argument("--mark", help="the mark of the tables in the document (default: the regime)")
    return bed.parse(parser, nodes=[2], rounds=1, files=50, mib=8)


def main():
    options = parse_options()
    measured = Bed(options)
    try:
        measured.start()
        samples, others = measure_all(measured)
        text = report(measured, samples, others)
    finally:
        measured.stop()
    bed.update(options, options.mark or options.regime, text)


if __name__ == "__main__":
    main()
