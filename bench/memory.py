#!/usr/bin/env python3
"""Memory of one server against what it stores: does it grow?

    bench/memory.py                                          print the table
    bench/memory.py --files 10 --extents 5 --update docs/performance.md

A server gets a budget; files are made by millions, looked up and removed. Another server gets one file per task, written in records of 512 bytes in random
order, so that each is an extent of its own. After each million the server's anonymous memory is read (RssAnon of /proc/PID/status: what it
allocated; pages of files that the kernel may drop are not in it), and how much it was at most (looked at every 0.2 s). The script ends with status 1 if that is more
than all pools have room for (shared memory, which is not anonymous, not counted) and --beside.
"""

import sys
import threading

import bed
from bed import MIB, Cluster, table

TASKS = 2
RECORD = 512


class Watch:
    """The anonymous memory of a server: now, and at most since the last question."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.peak = self.most = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def now(self):
        return self.cluster.memory() / MIB

    def loop(self):
        while not self.stop.wait(0.2):
            self.peak = max(self.peak, self.now())

    def end(self):
        self.stop.set()
        self.thread.join()

    def take(self):
        now = self.now()
        peak, self.peak = max(self.peak, now), now
        self.most = max(self.most, peak)
        return f"{now:,.0f}", f"{peak:,.0f}"


def make_files(cluster, options, watch, rows):
    """Files by millions, each million in directories of its own; some of the last ones are then looked at again."""
    each = ["-np", TASKS, "--threads", "-a", "HAYATE", "-u", "-n", options.step // TASKS]
    for million in range(1, options.files + 1):
        root = f"/files-{million}"
        cluster.command("mkdir", f"h:{root}")
        text = cluster.command("bench", "mdtest", "-F", *each, "-C", "-w", options.bytes, "-d", root)
        rows.append([f"{million} M files", *watch.take(), rate(text, "File creation")])
        print(" ".join(rows[-1]), file=sys.stderr)
    text = cluster.command("bench", "mdtest", "-F", *each, "-T", "-d", "/files-1")
    rows.append(["1 M of the oldest looked up", *watch.take(), rate(text, "File stat")])
    text = cluster.command("bench", "mdtest", "-F", *each, "-r", "-d", "/files-1")
    rows.append(["1 M removed", *watch.take(), rate(text, "File removal")])


def rate(text, row):
    line = next(line for line in text.splitlines() if line.strip().startswith(row))
    return f"{float(line.split()[2]):,.0f}"


def make_extents(cluster, options, watch, rows):
    """One file per task for each million of extents."""
    block = options.step // TASKS * RECORD
    words = ["-a", "HAYATE", "-N", TASKS, "-F", "-w", "-k", "-z", "-t", RECORD, "-b", block]
    for million in range(1, options.extents + 1):
        text = cluster.command("bench", "ior", *words, "-o", f"/extents-{million}")
        line = next(line for line in text.splitlines() if line.startswith("write"))
        each = float(line.split()[1]) * (1 << 20) / RECORD
        rows.append([f"{million} M extents", *watch.take(), f"{each:,.0f}"])
        print(" ".join(rows[-1]), file=sys.stderr)


def bound(cluster, options):
    """MiB that a server may have allocated: what its pools have room for, and what is in none of them."""
    pools = sum(pool["size"] for pool in cluster.status()[0]["pools"] if pool["name"] != "shared_memory")
    return pools / MIB + options.beside


def measure(options, what, make):
    """The table of a new server that gets files, or extents; whether it kept to its bound."""
    rows = []
    with Cluster(options, "memory") as cluster:
        cluster.up(1, "--memory", options.memory)
        most = bound(cluster, options)
        watch = Watch(cluster)
        try:
            rows.append(["empty", *watch.take(), ""])
            make(cluster, options, watch, rows)
        finally:
            watch.end()
        where = bed.machine(cluster.dir)
    header = [f"one server, `--memory {options.memory}`, at most {most:,.0f} MiB", "MiB after it", "MiB at most", "operations a second"]
    bed.update(options, f"memory {what}", f"{where}\n\n{table(header, rows)}")
    if watch.most > most:
        print(f"BEYOND ITS BOUND: {watch.most:,.0f} MiB with {what}, of {most:,.0f}", file=sys.stderr)
    return watch.most <= most


def main():
    parser = bed.parser(__doc__)
    parser.add_argument("--memory", default="256M", help="the server's budget")
    parser.add_argument("--files", type=int, default=10, help="millions of files")
    parser.add_argument("--bytes", type=int, default=0, help="content of each file")
    parser.add_argument("--extents", type=int, default=5, help="millions of extents")
    parser.add_argument("--step", type=int, default=1_000_000, help="what a million is, for a shorter run")
    parser.add_argument("--beside", type=int, default=32, help="MiB that a server may have beside its pools: threads, logs, tables of fixed size, the allocator's rest")
    options = bed.parse(parser, files=1, extents=1, step=200)
    # Both are measured, whatever the first is.
    kept = [measure(options, what, make) for what, wanted, make in [("files", options.files, make_files), ("extents", options.extents, make_extents)] if wanted]
    if not all(kept):
        sys.exit("a server took more memory than its bound")


if __name__ == "__main__":
    main()
