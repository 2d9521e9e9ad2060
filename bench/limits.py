#!/usr/bin/env python3
"""Limits: a server's memory against connections and open files, and what it does at the limit of its memory.

    cargo build --release && cargo build --release -p hayate-tests --example limits
    bench/limits.py                             connections, open files, bytes in flight, creates, clients of one file: three minutes
    bench/limits.py --long                      and a million open files, and writers under a memory cap (as root: cgroups, loop devices)
    bench/limits.py --only capped --long
    bench/limits.py --update docs/performance.md

Memory is read from /proc/PID/status: RssAnon is what a server allocated, RssShmem what it shares with clients. The script ends with status 1 if
a figure is beyond its bound.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import bed
from bed import MIB, Cluster, run, table

FAILED = []


def check(holds, what):
    if not holds:
        FAILED.append(what)
        print(f"BEYOND ITS BOUND: {what}", file=sys.stderr)


@contextmanager
def cluster(options, *args, **more):
    with Cluster(options, "limits") as made:
        yield made.up(*args, "--memory", options.memory, **more)


class Load:
    """A scenario of tests/examples/limits: told how far to go, it says when it is there."""

    def __init__(self, options, *words):
        self.process = subprocess.Popen([options.load, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def to(self, target):
        """Words that it says when it is done; the third is seconds."""
        self.process.stdin.write(f"{target}\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        if not words:
            sys.exit(f"the load ended with status {self.process.wait()}")
        return words

    def end(self):
        self.process.stdin.close()
        rest = self.process.stdout.read()
        check(self.process.wait() == 0, f"the load failed: {rest}")
        return rest


def mib(n):
    return f"{n / MIB:,.1f}"


def connections(options):
    """Memory of a server against the number of connected clients."""
    rows = []
    # The default budget has room for 13,000.
    options = argparse.Namespace(**{**vars(options), "memory": "1G", "budget": 1 << 30})
    for transport in ["unix", "tcp"]:
        with cluster(options, 1) as one:
            load, before = Load(options, "clients", one.file, 0, 1, transport), None
            for target in [1, *(step for step in (1_000, 5_000, 10_000) if step < options.connections), options.connections]:
                seconds = float(load.to(target)[2])
                memory, pool = one.memory(), one.pool("connections")
                before = before or memory
                each = (memory - before) / max(1, target - 1)
                rows.append([transport, f"{target:,}", mib(memory), f"{each:,.0f}" if target > 1 else "", mib(pool["used"]), f"{seconds:.1f}"])
                print(" ".join(rows[-1]), file=sys.stderr)
            # The first connections of all take more.
            check(each < 1024 + options.open_bytes or options.quick, f"{each:.0f} bytes for a {transport} connection with a file open")
            load.end()
    return table(["over", "clients", "server's memory, MiB", "bytes for each client and its open file", "pool `connections`, MiB", "seconds"], rows)


def opens(options):
    """Memory of a server against open files."""
    rows = []
    steps = [1_000] if options.quick else [1_000, 100_000, 250_000] + ([500_000, 1_000_000] if options.long else [])
    with cluster(options, 1) as one:
        load, bound = Load(options, "opens", one.file, "read"), None
        for target in steps:
            seconds = float(load.to(target)[2])
            memory, pool, table_pool = one.memory(), one.pool("open_files"), one.pool("metadata_cache")
            rows.append([f"{target:,}", mib(memory), mib(pool["used"]), mib(pool["size"]), mib(table_pool["used"]), f"{seconds:.0f}"])
            print(" ".join(rows[-1]), file=sys.stderr)
            check(pool["used"] <= pool["size"], "open files beyond their pool")
            bound = memory
        check(bound < options.budget, f"{mib(bound)} MiB of {options.memory} with {steps[-1]} open files")
        load.end()
    return table(["open files", "server's memory, MiB", "pool `open_files`, MiB", "of", "pool `metadata_cache`, MiB", "seconds"], rows)


def flight(options):
    """Memory of a server against bytes in flight: clients, each of which always has one request of 1 MiB in flight."""
    seconds, targets = (1, [0, 16]) if options.quick else (5, [0, 16, 64, 256, 1024])
    rows = []
    for way in ["write", "read"]:
        with cluster(options, 1) as one:
            load = Load(options, "flight", one.file, way, seconds)
            load.to(1)
            base = one.memory()
            for target in targets:
                peak = Peak(one)
                said = load.to(target)
                most, pool = peak.end(), one.pool("buffers")
                moved, fewest = int(said[4]), int(said[6])
                rows.append([way, f"{target:,}", mib(most), mib(pool["size"]), f"{moved / float(said[2]):,.0f}" if target else "", str(fewest) if target else ""])
                print(" ".join(rows[-1]), file=sys.stderr)
                check(most < base + pool["size"] + options.flight_bytes, f"{mib(most)} MiB with {target} MiB in flight ({way})")
                check(not target or fewest > 0, f"a client got nothing done with {target} MiB in flight ({way})")
            load.end()
    return table(["way", "MiB in flight", "server's memory at most, MiB", "pool `buffers`, MiB", "MiB/s", "requests of the client with fewest"], rows)


def one_file(options):
    """One file opened by many clients through two gateways."""
    each = options.each
    options = argparse.Namespace(**{**vars(options), "memory": "1G"})
    with cluster(options, 4, "--gateways", 2) as four:
        # Two processes, for one may not have that many descriptors. The second has the file when it says that it has no client.
        loads = [Load(options, "clients", four.file, gateway, 1, "unix") for gateway in [2, 3]]
        for load in loads:
            load.to(0)
        words = [load.to(clients) for load, clients in zip(loads, [each + 1, each], strict=True)]
        status = four.status()
        rows = []
        for number, state in enumerate(status):
            kind = "gateway" if number >= 2 else "keeps data"
            rows.append([str(number), kind, f"{state['connections']:,}", str(state["open_inodes"]), mib(four.memory(number))])
        check(all(state["connections"] < 64 for state in status[:2]), "connections of the servers with data grow with the clients")
        for load in loads:
            load.end()
    text = table(["server", "is", "connections", "inodes open", "memory, MiB"], rows)
    seconds = sum(float(word[2]) for word in words)
    return f"{sum(int(word[0]) for word in words):,} clients opened and read it in {seconds:.1f} s, none failed.\n\n{text}"


def creates(options):
    """2,000 creates under way in one directory, which gets 150,000 entries."""
    files, clients = (150_000, 2_000) if not options.quick else (1_000, 100)
    with cluster(options, 1) as one:
        load = Load(options, "creates", one.file, clients)
        words = load.to(files)
        pool, memory = one.pool("messages"), one.memory()
        rest = load.end().strip()
    rate = files / float(words[2])
    return f"{files:,} files by {clients:,} clients at once: {rate:,.0f} a second, none failed; {rest}. Server's memory {mib(memory)} MiB; pool `messages` at most {mib(pool['peak'])} MiB, {pool['waits']:,} waits."


@contextmanager
def slow_disk(options, name, mib_per_s, sync):
    """A file system on a loop device of a given speed."""
    top = Path(tempfile.mkdtemp(prefix=f"hayate-{name}-", dir=options.dir))
    image, at = top / "image", top / "mnt"
    at.mkdir()
    device = None
    throttle = Path("/sys/fs/cgroup/blkio")
    limits = [throttle / f"blkio.throttle.{way}_bps_device" for way in ["read", "write"]]
    try:
        with open(image, "wb") as file:
            os.truncate(file.fileno(), 12 << 30)
        device = run(["losetup", "--direct-io=on", "--find", "--show", image]).strip()
        run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", device])
        run(["mount", "-o", "sync" if sync else "defaults", device, at])
        number = os.stat(device).st_rdev
        for limit in limits:
            limit.write_text(f"{os.major(number)}:{os.minor(number)} {mib_per_s * MIB}")
        yield at
    finally:
        if device:
            number = os.stat(device).st_rdev
            for limit in limits:
                limit.write_text(f"{os.major(number)}:{os.minor(number)} 0")
            subprocess.run(["umount", at], check=False)
            subprocess.run(["losetup", "-d", device], check=False)
        shutil.rmtree(top, ignore_errors=True)


@contextmanager
def memory_cap(pid, limit):
    """Moves a process into a memory cgroup (version 1) of its own."""
    group = Path(f"/sys/fs/cgroup/memory/hayate-limits-{os.getpid()}")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        with suppress(OSError):
            for left in (group / "cgroup.procs").read_text().split():
                Path("/sys/fs/cgroup/memory/cgroup.procs").write_text(left)
        for _ in range(50):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


class Peak:
    """Most anonymous and shared memory of a server, looked at every 50 ms."""

    def __init__(self, one):
        self.one, self.most, self.stop = one, 0, threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def loop(self):
        while not self.stop.wait(0.05):
            with suppress(OSError):
                self.most = max(self.most, self.one.memory() + self.one.memory(what="RssShmem"))

    def end(self):
        self.stop.set()
        self.thread.join()
        return self.most


def capped(options):
    """64 writers against a memory cap of the budget and a tenth, a slow disk and a slower shared tier."""
    cap = options.budget * 11 // 10
    with slow_disk(options, "disk", 80, False) as disk, slow_disk(options, "tier", 20, True) as tier:
        (tier / "files").mkdir()
        words = ["--io", "direct", "--tier", tier / "files"]
        with cluster(options, 1, *words, store=disk / "store") as one, memory_cap(one.pids[0], cap) as group:
            peak, load = Peak(one), Load(options, "writers", one.file, 64, options.seconds)
            said = load.to(1)
            load.end()
            most = peak.end()
            kills = "oom_kill 0" in (group / "memory.oom_control").read_text()
            usage = int((group / "memory.max_usage_in_bytes").read_text())
            alive, pools = [server["state"] for server in one.states()], one.status()[0]["pools"]
    mib_sum, slowest, fastest = (int(said[at]) for at in (4, 6, 8))
    fair = mib_sum / 64
    check(kills and alive == ["up"], "the server was killed")
    check(most < options.budget, f"{mib(most)} MiB of memory of a budget of {options.memory}")
    check(slowest >= fair / 2, f"the slowest writer has {slowest} MiB, a fair share is {fair:.0f}")
    rows = [[pool["name"], mib(pool["size"]), mib(pool["peak"]), f"{pool['waits']:,}", f"{pool['wait_ns'] / 1e9:,.1f}"] for pool in pools]
    text = table(["pool", "size, MiB", "peak, MiB", "waits", "waited, s"], rows)
    return (
        f"64 writers, {options.seconds} s, cap {mib(cap)} MiB, disk 80 MiB/s, tier 20 MiB/s: no kill, no error; {mib_sum:,} MiB; the slowest "
        f"writer {slowest} MiB, the fastest {fastest}, a fair share is {fair:.0f}; 1 MiB took {said[10]} ms (median), {said[12]} ms (p99), "
        f"{said[14]} ms at most. Server's memory at most {mib(most)} MiB (page cache, which the kernel drops, and kernel memory bring it to {mib(usage)}).\n\n{text}"
    )


SCENARIOS = {
    "connections": connections,
    "opens": opens,
    "flight": flight,
    "one-file": one_file,
    "creates": creates,
    "capped": capped,
}
LONG = ["capped"]


def size(word):
    return int(word[:-1]) << {"M": 20, "G": 30}[word[-1]]


def parse_options():
    parser = bed.parser(__doc__)
    parser.add_argument("--load", type=Path, help="the example `limits` of hayate-tests (default: that beside the program)")
    parser.add_argument("--memory", default="512M", help="of each server")
    parser.add_argument("--connections", type=int, default=20_000, help="most connections of one process: less than `ulimit -Hn`")
    parser.add_argument("--each", type=int, default=14_000, help="clients of one file by each of two gateways")
    parser.add_argument("--open-bytes", type=int, default=400, help="what a client with an open file may take beyond a KiB")
    parser.add_argument("--flight-bytes", type=int, default=32 << 20, help="what a server may take beyond its pool of buffers while much is in flight")
    parser.add_argument("--seconds", type=int, default=60, help="of the writers under a cap")
    parser.add_argument("--long", action="store_true", help="also what takes long, or needs root")
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario")
    options = bed.parse(parser, connections=200, each=100, seconds=2)
    options.load = options.load or bed.example(options, "limits")
    options.budget = size(options.memory)
    return options


def main():
    options = parse_options()
    for name, scenario in SCENARIOS.items():
        if (options.only or name) != name or (name in LONG and not options.long):
            continue
        text = f"{scenario.__doc__}\n\n{scenario(options)}"
        bed.update(options, f"limits {name}", text)
    if FAILED:
        sys.exit("beyond their bounds: " + "; ".join(FAILED))


if __name__ == "__main__":
    main()
