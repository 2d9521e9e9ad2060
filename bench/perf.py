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

import argparse
import mmap
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

METADATA = {"create": "-C", "stat": "-T", "open, close": "-E", "remove": "-r"}
METADATA_ROWS = {"create": "File creation", "stat": "File stat", "open, close": "File read", "remove": "File removal"}
STREAMS = {
    "write, a file each": ["-F", "-w", "-k"],
    "read, a file each": ["-F", "-r", "-C"],
    "write, one file": ["-w", "-k"],
    "read, one file": ["-r", "-C"],
}
SEED = "7"
TICKS = os.sysconf("SC_CLK_TCK")


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
class Cluster:
    """Servers of a cluster, and its mount."""

    nodes: int
    file: Path
    mount_dir: Path
    server_pids: list[int] = field(default_factory=list)
    mount: subprocess.Popen | None = None


@dataclass
class Target:
    """Where a workload runs: the bare file system (no cluster), a mount, or the native client."""

    name: str
    cluster: Cluster | None
    native: bool
    root: str


def cpu_us(pid):
    """CPU time of a process so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / TICKS


def fine_cpu_us(pid):
    """The same to the nanosecond, from the scheduler."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue
    return total / 1e3


def run(args, env=None):
    """Runs a program to its end; its output. What it says on failure is passed on."""
    done = subprocess.run(args, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Bed:
    """The clusters, their mounts and the bare directory, all below one temporary directory of the file system measured."""

    def __init__(self, options):
        self.options = options
        self.dir = Path(tempfile.mkdtemp(prefix="hayate-perf-", dir=options.dir))
        # A build that ends meanwhile must not change what is measured.
        self.hayate = shutil.copy2(options.hayate, self.dir / "hayate")
        self.clusters = []
        self.spinners = []
        self.targets = []

    def start(self):
        if self.options.regime == "awake":
            self.spinners = [spinner(cpu) for cpu in os.sched_getaffinity(0)]
        if self.options.regime == "pinned":
            os.sched_setaffinity(0, {0})
        bare = self.dir / "bare"
        bare.mkdir()
        # ext4 puts the directories of one parent close to each other and then walks past the inodes that were removed in
        # the last minutes, one by one: creates of a second round would be 40 times slower. This spreads them.
        subprocess.run(["chattr", "+T", bare], capture_output=True, check=False)
        self.targets.append(Target("bare", None, False, str(bare)))
        for nodes in self.options.nodes:
            cluster = self.up(nodes)
            servers = f"{nodes} server" + ("s" if nodes > 1 else "")
            self.targets.append(Target(f"{servers}, native", cluster, True, ""))
            if cluster.mount:
                self.targets.append(Target(f"{servers}, mount", cluster, False, str(cluster.mount_dir)))
            if self.options.inside:
                cluster = self.up(nodes, inside=True)
                self.targets.append(Target(f"{servers}, mount inside", cluster, False, str(cluster.mount_dir)))

    def up(self, nodes, inside=False):
        name = f"{nodes}-inside" if inside else f"{nodes}"
        cluster = Cluster(nodes, self.dir / f"cluster-{name}.toml", self.dir / f"mnt-{name}")
        self.clusters.append(cluster)
        more = ["--memory", self.options.memory] if self.options.memory else []
        if inside:
            cluster.mount_dir.mkdir()
            more += ["--mount", cluster.mount_dir, "--mount-inside"]
        run([self.hayate, "--cluster", cluster.file, "up", "--nodes", str(nodes), "--store", self.dir / f"store-{name}", "--name", f"perf{name}", *more])
        text = cluster.file.read_text()
        cluster.server_pids = [int(pid) for pid in re.findall(r"^pid\s*=\s*(\d+)", text, re.M)]
        assert len(cluster.server_pids) == nodes, f"{cluster.file} names {len(cluster.server_pids)} servers"
        if not self.options.no_mount and not inside:
            cluster.mount_dir.mkdir()
            args = [self.hayate, "--cluster", cluster.file, "mount", "--foreground", cluster.mount_dir]
            cluster.mount = subprocess.Popen(args)
            self.wait_for_mount(cluster)
        return cluster

    @staticmethod
    def wait_for_mount(cluster):
        deadline = time.monotonic() + 30
        while not os.path.ismount(cluster.mount_dir):
            if cluster.mount.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{cluster.mount_dir} is not mounted (use --no-mount where FUSE is not available)")
            time.sleep(0.02)

    def stop(self):
        """Takes everything down that this run started, whatever has happened before."""
        for cluster in self.clusters:
            if cluster.mount:
                cluster.mount.send_signal(signal.SIGTERM)
                cluster.mount.wait()
            subprocess.run([self.hayate, "--cluster", cluster.file, "down", "--discard"], check=False, capture_output=True)
        for process in self.spinners:
            process.kill()
            process.wait()
        mounted = any(os.path.ismount(cluster.mount_dir) for cluster in self.clusters)
        if mounted:
            print(f"still mounted below {self.dir}: not removed", file=sys.stderr)
        else:
            shutil.rmtree(self.dir)

    def measure(self, target, args, parse):
        """Runs one benchmark on a target; what `parse` makes of its output, with the CPU time of everybody."""
        env = dict(os.environ)
        mount = servers = None
        if target.cluster:
            env["HAYATE_CLUSTER"] = str(target.cluster.file)
            servers = target.cluster.server_pids
            mount = target.cluster.mount.pid if target.cluster.mount and not target.native else None
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
        pids = [p.pid for p in self.spinners] + [c.mount.pid for c in self.clusters if c.mount]
        pids += [pid for c in self.clusters for pid in c.server_pids]
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(map(cpu_us, pids)) + sum(u.ru_utime + u.ru_stime for u in used) * 1e6


SPINNER = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, [int(sys.argv[1])])
while True:
    pass
"""
AUTOGROUP = Path("/proc/self/autogroup")


def spinner(cpu):
    """A process that keeps a CPU awake and yields to everybody.

    With scheduling by sessions (autogroup), the class SCHED_IDLE counts within a session only: the session as a whole would
    take half of the CPU from the servers'. So it gets a session of its own, of the least weight.
    """

    def least_weight():
        if AUTOGROUP.exists():
            AUTOGROUP.write_text("19")

    return subprocess.Popen([sys.executable, "-c", SPINNER, str(cpu)], start_new_session=True, preexec_fn=least_weight)


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


def one_round(bed, number, samples):
    options = bed.options
    targets = bed.targets if number % 2 == 0 else bed.targets[::-1]
    tasks = ["-N", str(options.tasks)]
    roots = {}
    for target in targets:
        # A fresh directory each: nothing of the last round is in anybody's cache. The name decides where ext4 puts it, so it
        # must not be that of an earlier run either.
        roots[target.name] = f"{target.root}/{bed.dir.name}-{number}-{'native' if target.native else 'posix'}"
        make_dir(bed, target, roots[target.name])
    for what, switch in METADATA.items():
        for target in targets:
            args = ["mdtest", "-F", switch, "-n", str(options.files), "-d", roots[target.name], "-np", str(options.tasks)]
            parse = parse_metadata(what, options.files * options.tasks)
            samples[what][target.name].append(bed.measure(target, args, parse))
    block = options.mib // options.tasks
    for what, switches in STREAMS.items():
        for target in targets:
            args = ["ior", *switches, "-t", "1m", "-b", f"{block}m", "-G", SEED, "-o", f"{roots[target.name]}/data", *tasks]
            warm_memory(options.mib)
            samples[what][target.name].append(bed.measure(target, args, parse_stream(what, block * options.tasks)))


def warm_memory(mib):
    """Touches memory and gives it back, so that page caches get pages that the host of a virtual machine has backed.

    Pages that it has not cost 2,500 us of CPU time per MiB at the first touch, ten times what is measured, and which target
    gets them is chance. Three times the data: the caches of mount and server, and reserve.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, 3 * mib << 20, flags=flags).close()


def make_dir(bed, target, path):
    if target.native:
        run([bed.hayate, "--cluster", target.cluster.file, "mkdir", f"h:{path}"])
    else:
        os.mkdir(path)


def busy_us():
    fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft, _steal = fields
    return (user + nice + system + irq + soft) * 1e6 / TICKS


def empty_samples(bed):
    return {what: {t.name: [] for t in bed.targets} for what in [*METADATA, *STREAMS]}


def measure_all(bed):
    """Samples by workload and target of the rounds that count, and how many CPUs others used in each of them.

    Of more rounds than wanted (--of), those count in which others took the least: chosen by what others did, never by results.
    """
    rounds = []
    one_round(bed, 0, empty_samples(bed))  # To warm up; never counts.
    total = max(bed.options.rounds, bed.options.of or 0)
    for number in range(1, total + 1):
        samples = empty_samples(bed)
        start, busy, own = time.monotonic(), busy_us(), bed.own_cpu_us()
        one_round(bed, number, samples)
        elapsed_us = (time.monotonic() - start) * 1e6
        others = max(0.0, (busy_us() - busy) - (bed.own_cpu_us() - own)) / elapsed_us
        rounds.append((others, number, samples))
        print(f"round {number} of {total}: others used {others:.2f} CPUs", file=sys.stderr)
    kept = sorted(rounds, key=lambda r: r[:2])[: bed.options.rounds]
    joined = empty_samples(bed)
    for _, _, samples in kept:
        for what, by_target in samples.items():
            for name, each in by_target.items():
                joined[what][name] += each
    return joined, [others for others, _, _ in kept]


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


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


def commit():
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + (" with changes" if dirty else "")


def conditions_of_machine(bed):
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    kind = run(["findmnt", "-n", "-o", "FSTYPE", "-T", str(bed.dir)]).strip()
    return (
        f"Regime `{bed.options.regime}`; {cpus} CPU{'s' if cpus > 1 else ''} ({platform.machine()}), {memory:.0f} GiB, Linux "
        f"{platform.release()}, stores and bare directory on {kind}; commit {commit()}; {time.strftime('%Y-%m-%d')}."
    )


def conditions(bed, others):
    o = bed.options
    return (
        f"{conditions_of_machine(bed)}\n"
        f"{o.tasks} tasks, {o.files:,} empty files each in one directory, {o.mib} MiB by transfers of 1 MiB; {o.rounds} rounds"
        f"{f' (the least disturbed of {o.of})' if (o.of or 0) > o.rounds else ''}; "
        f"median (smallest to largest). Meanwhile other programs and the kernel's own threads used "
        f"{statistics.median(others):.2f} CPUs ({min(others):.2f} to {max(others):.2f})."
    )


def report(bed, samples, others):
    names = [target.name for target in bed.targets]
    parts = [
        conditions(bed, others),
        ratios(samples, names),
        "Client + mount + servers (the bare file system has only the client):",
        costs(samples, names),
        per_gib(samples, names),
        rates(samples, names),
    ]
    return "\n\n".join(parts)


def update(path, regime, text):
    """Puts the tables into the document, between the marks of their regime."""
    begin, end = f"<!-- perf {regime} -->", f"<!-- end of perf {regime} -->"
    document = Path(path).read_text()
    if begin not in document or end not in document:
        sys.exit(f"{path} lacks the lines {begin} and {end}")
    head, rest = document.split(begin, 1)
    tail = rest.split(end, 1)[1]
    Path(path).write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--hayate", type=Path, default=root / "target/release/hayate", help="the program")
    parser.add_argument("--dir", default=None, help="where stores and files go (default: the temporary directory)")
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
    parser.add_argument("--update", metavar="FILE", help="put the tables into this document")
    options = parser.parse_args()
    if not options.hayate.is_file():
        parser.error(f"{options.hayate} does not exist: cargo build --release")
    return options


def main():
    options = parse_options()
    bed = Bed(options)
    try:
        bed.start()
        samples, others = measure_all(bed)
        text = report(bed, samples, others)
    finally:
        bed.stop()
    print(text)
    if options.update:
        update(options.update, options.regime, text)


if __name__ == "__main__":
    main()
