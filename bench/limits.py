#!/usr/bin/env python3
"""Limits: a server's memory against connections and open files, and what it does at the limit of its memory.

    cargo build --release && cargo build --release -p hayate-tests --example limits
    bench/limits.py                             connections, open files, bytes in flight, creates, clients of one file, memory of clients: four minutes
    bench/limits.py --long                      and a million open files, and writers under a memory cap (as root: cgroups, loop devices)
    bench/limits.py --only capped --long
    bench/limits.py --update docs/performance.md

Memory is read from /proc/PID/status: RssAnon is what a server allocated, RssShmem what it shares with clients. The script ends with status 1 if
a figure is beyond its bound.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import bed
from bed import MIB, Cluster, memory_of, run, spread, table

FAILED = []
# Of the last cluster, for the line above a table.
MACHINE = {}


def check(holds, what):
    if not holds:
        FAILED.append(what)
        print(f"BEYOND ITS BOUND: {what}", file=sys.stderr)


@contextmanager
def cluster(options, *args, **more):
    with Cluster(options, "limits") as made:
        MACHINE.update(where=bed.machine(made.dir))
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


def idle(options):
    """Memory of a server against the connections of one client that has nothing open and asks nothing."""
    rows = []
    options = argparse.Namespace(**{**vars(options), "memory": "1G"})
    for transport in ["unix", "tcp"]:
        with cluster(options, 1) as one:
            load, first = Load(options, "idle", one.file, transport), options.idle // 4
            load.to(first)
            # The first ones find the thread's own memory not yet grown.
            before = one.memory()
            seconds = float(load.to(options.idle)[2])
            memory, state = one.memory(), one.status()[0]
            each = (memory - before) / (options.idle - first)
            rows.append([transport, f"{options.idle:,}", mib(before), mib(memory), f"{each:,.0f}", f"{options.idle_bytes:,}", f"{seconds:.1f}"])
            print(" ".join(rows[-1]), file=sys.stderr)
            check(each <= options.idle_bytes, f"{each:.0f} bytes for an idle {transport} connection")
            check(state["connections"] >= options.idle and state["open_inodes"] == 0, "fewer connections than were made, or files open")
            load.end()
    return table(["over", "connections", "server's memory with a quarter of them, MiB", "with all, MiB", "bytes for each", "bound", "seconds"], rows)


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
                peak = Peak(lambda: all_memory(one))
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
    """The largest of what `look` says, looked at every so many seconds."""

    def __init__(self, look, every=0.05):
        self.look, self.every, self.most, self.stop = look, every, 0, threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def loop(self):
        while True:
            with suppress(OSError, StopIteration):
                self.most = max(self.most, self.look())
            if self.stop.wait(self.every):
                return

    def end(self):
        self.stop.set()
        self.thread.join()
        return self.most


def all_memory(one):
    """What a server has allocated and shares with clients."""
    return one.memory() + one.memory(what="RssShmem")


CAPPED_HEADER = [
    "`--io`", "MiB written", "in the tier, MiB", "slowest writer, MiB", "fair share", "fastest", "1 MiB: median, ms", "p99", "most",
    "opening and closing a file: p99, ms", "most", "dirty at most, MiB", "server's memory at most, MiB", "the cgroup's",
]  # fmt: skip


def capped(options):
    """64 writers against a memory cap of the budget and a tenth, a slow disk and a slower shared tier."""
    cap = options.budget * 11 // 10
    rows, pools = [], {}
    for io in ["direct", "buffered"]:
        row, found = one_cap(options, io, cap)
        rows.append(row)
        print(" ".join(row), file=sys.stderr)
        for pool in found:
            pools.setdefault(pool["name"], [pool["name"], mib(pool["size"])]).extend([mib(pool["peak"]), f"{pool['waits']:,}", f"{pool['wait_ns'] / 1e9:,.1f}"])
    each = table(["pool", "size, MiB", *(f"{what}, {io}" for io in ["direct", "buffered"] for what in ["peak, MiB", "waits", "waited, s"])], list(pools.values()))
    return (
        f"64 writers of files of 4 MiB, {options.seconds} s, cap {mib(cap)} MiB, disk {DISK_MIB_S} MiB/s, tier {TIER_MIB_S} MiB/s, `--dirty-max {DIRTY_MIB}M`: no kill, no error. With "
        f"`buffered` the cgroup's memory is mostly page cache, which the kernel drops.\n\n{table(CAPPED_HEADER, rows)}\n\n{each}"
    )


# Speed of the two devices, and how much may wait for the tier.
DISK_MIB_S, TIER_MIB_S, DIRTY_MIB = 80, 20, 256


def one_cap(options, io, cap):
    """The row of one way to write, and the server's pools."""
    with slow_disk(options, "disk", DISK_MIB_S, False) as disk, slow_disk(options, "tier", TIER_MIB_S, True) as tier:
        (tier / "files").mkdir()
        words = ["--io", io, "--tier", tier / "files", "--dirty-max", f"{DIRTY_MIB}M"]
        with cluster(options, 1, *words, store=disk / "store") as one, memory_cap(one.pids[0], cap) as group:
            memory, dirty = Peak(lambda: all_memory(one)), Peak(lambda: one.status()[0]["flush"]["pending_bytes"], 0.5)
            load = Load(options, "writers", one.file, 64, options.seconds)
            words = load.to(1)
            load.end()
            memory, dirty = memory.end(), dirty.end()
            kills = "oom_kill 0" in (group / "memory.oom_control").read_text()
            usage = int((group / "memory.max_usage_in_bytes").read_text())
            alive, status = [server["state"] for server in one.states()], one.status()[0]
            there = sum(path.stat().st_size for path in (tier / "files").glob("writer-*/*"))
    said = dict(zip(words[3::2], map(float, words[4::2]), strict=True))
    fair, copied, failures = said["mib"] / 64, status["flush"]["copied_bytes"], status["flush"]["failures"]
    check(kills and alive == ["up"], f"{io}: the server was killed")
    check(memory < options.budget, f"{io}: {mib(memory)} MiB of memory of a budget of {options.memory}")
    check(said["slowest"] >= fair / 2, f"{io}: the slowest writer has {said['slowest']:.0f} MiB, a fair share is {fair:.0f}")
    check(copied > 0 and there > 0 and failures == 0, f"{io}: {mib(copied)} MiB reached the tier, {mib(there)} are there, {failures} failures")
    # What 64 writers had begun when the cap was met comes on top.
    check(dirty <= (DIRTY_MIB + 64 * 4) * MIB, f"{io}: {mib(dirty)} MiB waited for the tier, of {DIRTY_MIB}")
    numbers = [said["mib"], copied / MIB, said["slowest"], fair, said["fastest"], *(said[f"piece_{which}_ms"] for which in ["p50", "p99", "max"])]
    numbers += [said["file_p99_ms"], said["file_max_ms"], dirty / MIB, memory / MIB, usage / MIB]
    return [io, *(f"{number:,.0f}" for number in numbers)], status["pools"]


@contextmanager
def mounted(one, memory):
    """A mount with a budget, and its process."""
    spread(one.mount)
    process = subprocess.Popen([one.hayate, "--cluster", one.file, "mount", "--foreground", "--client-memory", memory, one.mount])
    try:
        while not os.path.ismount(one.mount):
            if process.poll() is not None:
                sys.exit(f"{one.mount} is not mounted")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        process.wait()


def mount_io(two, threads):
    """Threads that write files and read them from the client, not from the kernel's pages."""
    block, pieces, until, failed = os.urandom(4 * MIB), 8, time.monotonic() + 4, []

    def one(number):
        try:
            file = os.open(two.mount / f"io-{number}", os.O_RDWR | os.O_CREAT, 0o644)
            while time.monotonic() < until:
                for piece in range(pieces):
                    os.pwrite(file, block, piece * len(block))
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                for piece in range(pieces):
                    if os.pread(file, len(block), piece * len(block)) != block:
                        raise OSError("other bytes were read")
            os.close(file)
        except OSError as error:
            failed.append(str(error))

    running = [threading.Thread(target=one, args=[number]) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    check(not failed, f"threads on a mount failed: {failed}")
    return threads


HOLDER = """
import os, sys
top, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = [os.open(f"{top}/{number}", os.O_RDWR | os.O_CREAT, 0o644) for number in range(first, last)]
print(len(held), flush=True)
sys.stdin.read()
"""


def mount_opens(two, target):
    """Files held open, by as many processes as it takes: each may have so many."""
    each = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100
    (two.mount / "opens").mkdir()
    raise_limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (each + 100, each + 100))
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER, two.mount / "opens", str(first), str(min(first + each, target))],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=raise_limit)
        for first in range(0, target, each)
    ]  # fmt: skip
    held = sum(int(holder.stdout.readline() or 0) for holder in holders)
    check(two.status()[0]["open_inodes"] + two.status()[1]["open_inodes"] >= held, "fewer files are open at the servers than are held")
    for holder in holders:
        holder.communicate()
    return held


def mount_names(two, target):
    """A directory that is listed, with the attributes of all that is in it; made without the mount."""
    two.command("mkdir", "h:/names")
    two.command("bench", "mdtest", "-F", "-np", 1, "--threads", "-a", "HAYATE", "-n", target, "-C", "-d", "/names")
    return sum(os.lstat(f"{top}/{name}").st_size == 0 for _ in range(2) for top, _, names in os.walk(two.mount / "names") for name in names) // 2


def client_loads(options):
    """What is done, how far, and the client's budget: a file that is open has 640 bytes of an eighth of it."""
    many = 2_000 if options.quick else 100_000
    return [("io", 8 if options.quick else 32, "64M"), ("opens", many, "64M" if options.quick else "512M"), ("names", many, "64M")]


def client(options):
    """Memory of a client against its budget: of a process with the library, and of a mount."""
    rows = []

    def note(who, what, reached, memory, most):
        unit = {"io": "threads that write and read", "opens": "files open", "names": "names of a directory, with attributes"}[what]
        rows.append([who, f"{reached:,} {unit}", memory, mib(most)])
        print(" ".join(rows[-1]), file=sys.stderr)
        check(most <= size(memory) + options.client_bytes, f"{mib(most)} MiB of a {who} with `--client-memory {memory}` and {rows[-1][1]}")

    for what, target, memory in client_loads(options):
        with cluster(options, 2) as two:
            load = Load(options, "client", two.file, size(memory) // MIB, what)
            peak = Peak(lambda: memory_of(load.process.pid))
            done = int(load.to(target)[0])
            check(done >= target, f"the library's client got to {done} of {target} ({what})")
            note("process", what, target, memory, peak.end())
            load.end()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        print("no FUSE here: no mount is measured", file=sys.stderr)
        return table(CLIENT_HEADER, rows)
    for (what, target, memory), work in zip(client_loads(options), [mount_io, mount_opens, mount_names], strict=True):
        with cluster(options, 2) as two, mounted(two, memory) as process:
            peak = Peak(lambda: memory_of(process.pid))
            reached = work(two, target)
            check(reached >= target, f"a mount got to {reached} of {target} ({what})")
            note("mount", what, reached, memory, peak.end())
    return table(CLIENT_HEADER, rows)


CLIENT_HEADER = ["client", "load", "`--client-memory`", "memory at most, MiB"]


SCENARIOS = {
    "connections": connections,
    "idle": idle,
    "opens": opens,
    "flight": flight,
    "one-file": one_file,
    "creates": creates,
    "client": client,
    "capped": capped,
}
LONG = ["capped"]


def size(word):
    return int(word[:-1]) << {"M": 20, "G": 30}[word[-1]]


def parse_options():
    parser = bed.parser(__doc__)
    parser.add_argument("--load", type=Path, help="the example `limits` of hayate-tests (default: that beside the program)")
    parser.add_argument("--memory", default="512M", help="of each server")
    parser.add_argument("--connections", type=int, default=min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500), help="most connections of one process: less than `ulimit -Hn`")
    parser.add_argument("--idle", type=int, default=16_000, help="connections of one client that asks nothing: less than `ulimit -Hn`")
    parser.add_argument("--idle-bytes", type=int, default=1024, help="what each of these may take")
    parser.add_argument("--client-bytes", type=int, default=32 << 20, help="what a client may take beyond its budget")
    parser.add_argument("--each", type=int, default=14_000, help="clients of one file by each of two gateways")
    parser.add_argument("--open-bytes", type=int, default=400, help="what a client with an open file may take beyond a KiB")
    parser.add_argument("--flight-bytes", type=int, default=32 << 20, help="what a server may take beyond its pool of buffers while much is in flight")
    parser.add_argument("--seconds", type=int, default=60, help="of the writers under a cap")
    parser.add_argument("--long", action="store_true", help="also what takes long, or needs root")
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario")
    options = bed.parse(parser, connections=200, idle=4_000, each=100, seconds=2)
    options.load = options.load or bed.example(options, "limits")
    options.budget = size(options.memory)
    return options


def main():
    options = parse_options()
    for name, scenario in SCENARIOS.items():
        if (options.only or name) != name or (name in LONG and not options.long):
            continue
        text = scenario(options)
        bed.update(options, f"limits {name}", f"{scenario.__doc__}\n\n{MACHINE['where']}\n\n{text}")
    if FAILED:
        sys.exit("beyond their bounds: " + "; ".join(FAILED))


if __name__ == "__main__":
    main()
