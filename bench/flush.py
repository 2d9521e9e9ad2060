#!/usr/bin/env python3
"""How fast a burst goes to tier 2, next to cp of the same files by the same number of processes.

    cargo build --release && bench/flush.py             about six minutes, 10 GB
    bench/flush.py --update docs/performance.md         and put the table there
    bench/flush.py --only small --counters              system calls of the servers' flushing, too (strace)

Tier 2 is a directory of the same file system as tier 1 and as cp's source and target. Each round makes new files and measures Hayate and cp one after
the other, in turned order every second round, after a sync. Hayate's time is that of `hayate flush --wait`, from its start to its end, with servers that
have not flushed anything of the files before; the time until the last file got its name in tier 2 is beside it. The content that arrived is compared
with the source. The script ends with status 1 if a ratio is beyond its bound.
"""

import filecmp
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bed
from bed import MIB, Cluster, commit, table

# Name: what it is, files, their directories, bytes of each, cp's processes, and the least rate relative to cp's.
SCENARIOS = {
    "shared": ("one file of 1 GiB", 1, 1, 1024 * MIB, 1, 1.0),
    "each8": ("8 files of 64 MiB, one a process", 8, 1, 64 * MIB, 8, 0.85),
    "each32": ("32 files of 64 MiB, one a process", 32, 1, 64 * MIB, 32, 0.85),
    "small": ("20,000 files of 4 KiB in 20 directories", 20_000, 20, 4096, 1, 1.0),
}
NEVER_MS = 3_600_000
HURRY_S = 7
# Memory that is used and given back before each measurement: more than any burst and what is made beside it.
FRESH = 8 << 30


def make_files(where, files, dirs, size):
    """Files that differ from each other, in directories of their own."""
    block = os.urandom(min(size, 8 * MIB))
    for number in range(files):
        path = where / f"d{number % dirs}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            out.write(number.to_bytes(8, "little"))
            for start in range(8, size, len(block)):
                out.write(block[: min(len(block), size - start)])


def same(a, b):
    """Whether two trees have the same names and contents."""
    compared = filecmp.dircmp(a, b)
    if compared.left_only or compared.right_only or compared.funny_files:
        return False
    names = compared.common_files
    return filecmp.cmpfiles(a, b, names, shallow=False)[1:] == ([], []) and all(same(Path(a) / d, Path(b) / d) for d in compared.common_dirs)


def settle():
    """Everything written back, and free memory that was used lately: under a hypervisor the first use of a page costs several times a copy of it."""
    os.sync()
    bed.warm_memory(FRESH)


def last_change(where):
    """When the last object below a directory got its name or attributes."""
    return max(os.lstat(os.path.join(top, name)).st_ctime for top, _, names in os.walk(where) for name in names)


class Bed(Cluster):
    """A cluster whose flushing waits to be told, and a directory for cp beside it."""

    def __init__(self, options):
        super().__init__(options, "flush")
        bed.spread(self.dir / "cp")

    def start(self):
        self.up(self.options.servers, "--flush-delay", NEVER_MS, *self.options.up, tier=True, mount=True)

    def flush(self, source, name):
        """Seconds until all of a new burst is in tier 2 and the command has said so, until the last file was there, and CPU seconds of the servers."""
        # An earlier call of `flush --wait` has an effect for so long.
        time.sleep(HURRY_S)
        subprocess.run(["cp", "-r", source, self.mount / name], check=True)
        settle()
        began, clock, cpu = time.time(), time.monotonic(), self.cpu_s()
        tracer = self.trace()
        self.command("flush", "--wait")
        took, cpu = time.monotonic() - clock, self.cpu_s() - cpu
        self.end_trace(tracer)
        arrived = last_change(self.tier / name) - began
        if not same(source, self.tier / name):
            sys.exit(f"{name}: what is in tier 2 is not what was written")
        return took, arrived, cpu

    def trace(self):
        if not self.options.counters:
            return []
        tracers = [subprocess.Popen(["strace", "-f", "-c", "-q", "-o", self.dir / f"strace-{pid}", "-p", str(pid)]) for pid in self.pids]
        time.sleep(1)
        return tracers

    def end_trace(self, tracers):
        for tracer in tracers:
            tracer.terminate()
            tracer.wait()
        for pid in self.pids if tracers else []:
            print((self.dir / f"strace-{pid}").read_text(), file=sys.stderr)

    def copy(self, source, name, processes):
        """Seconds of cp, and CPU seconds."""
        target = self.dir / "cp" / name
        settle()
        clock, before = time.monotonic(), os.times()
        if processes == 1:
            subprocess.run(["cp", "-r", source, target], check=True)
        else:
            files = sorted(path for path in source.rglob("*") if path.is_file())
            target.mkdir()
            started = [subprocess.Popen(["cp", *files[each::processes], target]) for each in range(processes)]
            if any(process.wait() for process in started):
                sys.exit("cp failed")
        took, after = time.monotonic() - clock, os.times()
        cpu = after.children_user - before.children_user + after.children_system - before.children_system
        return took, cpu

    def forget(self, name):
        """Gives the room of a burst and its copy back."""
        shutil.rmtree(self.dir / "cp" / name)
        shutil.rmtree(self.mount / name)
        self.command("flush", "--wait")


def measure(cluster, key):
    """The row of a scenario, and its ratio."""
    title, files, dirs, size, processes, least = SCENARIOS[key]
    if cluster.options.quick:
        files, size = min(files, 100), min(size, MIB)
    source = cluster.dir / f"source-{key}"
    make_files(source, files, dirs, size)
    flushed, copied = [], []
    for number in range(cluster.options.rounds + 1):
        name = f"{key}{number}"
        steps = [lambda name=name: flushed.append(cluster.flush(source, name)), lambda name=name: copied.append(cluster.copy(source, name, processes))]
        for step in steps if number % 2 else steps[::-1]:
            step()
        print(f"{name}: flush {flushed[-1][0]:.2f} s (there after {flushed[-1][1]:.2f}, CPU {flushed[-1][2]:.2f}), cp {copied[-1][0]:.2f} s (CPU {copied[-1][1]:.2f})", file=sys.stderr)
        # Not of many small files: ext4 passes over inodes that were deleted in the last half minute, one by one, whenever it makes a file.
        if size > MIB:
            cluster.forget(name)
    shutil.rmtree(source)
    # The first round is to warm up.
    flushed, copied = flushed[1:], copied[1:]
    ratio = statistics.median(c[0] / f[0] for f, c in zip(flushed, copied))
    arrived = statistics.median(c[0] / f[1] for f, c in zip(flushed, copied))
    middle = [statistics.median(sample[i] for sample in flushed) for i in range(3)] + [statistics.median(sample[i] for sample in copied) for i in range(2)]
    unit = files if key == "small" else files * size / MIB
    rate = lambda seconds: f"{unit / seconds:,.0f} {'files/s' if key == 'small' else 'MiB/s'}"
    row = [title, rate(middle[0]), f"{middle[2]:.2f}", f"cp, {processes}" if processes > 1 else "cp -r", rate(middle[3]), f"{middle[4]:.2f}", f"{ratio:.2f}", f"{arrived:.2f}", f"{least:.2f}"]
    return row, ratio >= least


def main():
    parser = bed.parser(__doc__)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--counters", action="store_true", help="strace -c of the servers; slows everything down")
    parser.add_argument("--up", nargs="+", default=[], metavar="WORD", help="further options of hayate up")
    options = bed.parse(parser, rounds=1, only=["each8", "small"])
    with Bed(options) as cluster:
        cluster.start()
        results = [measure(cluster, key) for key in options.only]
    header = ["burst", "flush", "CPU s of the servers", "next to", "cp", "CPU s", "flush / cp", "until the last file is there / cp", "wanted"]
    text = table(header, [row for row, _ in results]) + f"\n\nMedians of {options.rounds} rounds, {options.servers} servers, {os.cpu_count()} CPUs; commit {commit()}."
    bed.update(options, "flush", text)
    sys.exit(0 if options.quick or all(holds for _, holds in results) else 1)


if __name__ == "__main__":
    main()
