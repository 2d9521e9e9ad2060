#!/usr/bin/env python3
"""Memory of one server against what it stores: does it grow?

    bench/memory.py                                          print the table
    bench/memory.py --files 10 --extents 5 --update docs/performance.md

A server gets a budget; files are made by millions, looked up and read at random, then one file per task is written in records of 512 bytes in random
order, so that each is an extent of its own. After each million the server's anonymous memory is read (RssAnon of /proc/PID/status: what it
allocated; pages of files that the kernel may drop are not in it), and how much it was at most (looked at every 0.2 s).
"""

import argparse
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

from perf import Bed, conditions_of_machine, run, table, update

MILLION = 1_000_000
TASKS = 2
RECORD = 512


class Watch:
    """The anonymous memory of a process: now, and at most since the last question."""

    def __init__(self, pid):
        self.status = Path(f"/proc/{pid}/status")
        self.peak = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def now(self):
        kib = next(line for line in self.status.read_text().splitlines() if line.startswith("RssAnon:"))
        return int(kib.split()[1]) / 1024

    def loop(self):
        while not self.stop.wait(0.2):
            self.peak = max(self.peak, self.now())

    def end(self):
        self.stop.set()
        self.thread.join()

    def take(self):
        now = self.now()
        peak, self.peak = max(self.peak, now), now
        return f"{now:,.0f}", f"{peak:,.0f}"


def bench(bed, *args):
    return run([bed.hayate, "bench", "--cluster", bed.clusters[0].file, *args])


def make_files(bed, watch, rows):
    """Files by millions, each million in directories of its own; some of the last ones are then looked at again."""
    each = ["-np", str(TASKS), "--threads", "-a", "HAYATE", "-u", "-n", str(MILLION // TASKS)]
    for million in range(1, bed.options.files + 1):
        root = f"/files-{million}"
        run([bed.hayate, "--cluster", bed.clusters[0].file, "mkdir", f"h:{root}"])
        text = bench(bed, "mdtest", "-F", *each, "-C", "-w", str(bed.options.bytes), "-d", root)
        rows.append([f"{million} M files", *watch.take(), rate(text, "File creation")])
        print(" ".join(rows[-1]), file=sys.stderr)
    if not bed.options.files:
        return
    text = bench(bed, "mdtest", "-F", *each, "-T", "-d", "/files-1")
    rows.append(["1 M of the oldest looked up", *watch.take(), rate(text, "File stat")])
    text = bench(bed, "mdtest", "-F", *each, "-r", "-d", "/files-1")
    rows.append(["1 M removed", *watch.take(), rate(text, "File removal")])


def rate(text, row):
    line = next(line for line in text.splitlines() if line.strip().startswith(row))
    return f"{float(line.split()[2]):,.0f}"


def make_extents(bed, watch, rows):
    """One file per task for each million of extents."""
    block = MILLION // TASKS * RECORD
    for million in range(1, bed.options.extents + 1):
        text = bench(bed, "ior", "-a", "HAYATE", "-N", str(TASKS), "-F", "-w", "-k", "-z", "-t", str(RECORD), "-b", str(block), "-o", f"/extents-{million}")
        line = next(line for line in text.splitlines() if line.startswith("write"))
        each = float(line.split()[1]) * (1 << 20) / RECORD
        rows.append([f"{million} M extents", *watch.take(), f"{each:,.0f}"])
        print(" ".join(rows[-1]), file=sys.stderr)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--hayate", type=Path, default=root / "target/release/hayate", help="the program")
    parser.add_argument("--dir", default=None, help="where the store goes (default: the temporary directory)")
    parser.add_argument("--memory", default="256M", help="the server's budget")
    parser.add_argument("--files", type=int, default=10, help="millions of files")
    parser.add_argument("--bytes", type=int, default=0, help="content of each file")
    parser.add_argument("--extents", type=int, default=5, help="millions of extents")
    parser.add_argument("--update", metavar="FILE", help="put the table into this document")
    return parser.parse_args()


def main():
    options = parse_options()
    bed = Bed(SimpleNamespace(**vars(options), regime="idle", nodes=[1], no_mount=True, inside=False))
    rows = []
    try:
        bed.start()
        where = conditions_of_machine(bed)
        watch = Watch(bed.clusters[0].server_pids[0])
        rows.append(["empty", *watch.take(), ""])
        make_files(bed, watch, rows)
        make_extents(bed, watch, rows)
        watch.end()
    finally:
        bed.stop()
    header = [f"one server, `--memory {options.memory}`", "MiB after it", "MiB at most", "operations a second"]
    text = f"{where}\n\n{table(header, rows)}"
    print(text)
    if options.update:
        update(options.update, "memory", text)


if __name__ == "__main__":
    main()
