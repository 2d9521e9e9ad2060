#!/usr/bin/env python3
"""The same work on the same directory by fio and by `hayate bench ior`: do they measure the same?

    cargo build --release && bench/fio_compare.py --dir /mnt/disk          ends with status 1 if a rate differs by more than 10 %, or 77 if it does while other programs were busy

Both take turns, in turned order every second round; compared are the rates within a round, and of these ratios the median counts. Both use pread and pwrite
of one block at a time, each block once, with all bytes of it made anew, and sync at the end of writing (fio by a pattern of offsets: what it does by itself changes some bytes of the
block before, and the device takes the others faster than what a CPU has just made). Direct I/O, so that the device is measured and not how fast each
program is; with --cached the page cache, which shows just that.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import bed
from bed import run, table

TOLERANCE = 0.10
# CPUs that other programs use at most when the bound is asked for: what they take makes filling and comparing slower, and not the device.
BUSY = 0.3


def others_us():
    """CPU time of everything but this script and what it started and has ended."""
    return bed.busy_us() - bed.own_us()


def fio(options, box, what, mib):
    """MiB/s by fio."""
    rw, block = {"write": ("write", "1m"), "read": ("read", "1m"), "random 4 KiB": ("randread", "4k")}[what]
    mib = options.random_mib if what == "random 4 KiB" else mib
    args = ["fio", "--name=same", f"--filename={box}/fio", f"--rw={rw}", f"--bs={block}", f"--size={mib}m", "--ioengine=psync", f"--direct={int(not options.cached)}"]
    args += ["--output-format=json", "--invalidate=0", "--allow_file_create=1", "--fallocate=none", "--thread"]
    if what == "write":
        args += ["--end_fsync=1", "--unlink=0", "--overwrite=0", "--verify=pattern", "--verify_pattern=%o", "--do_verify=0", "--verify_state_save=0"]
        Path(f"{box}/fio").unlink(missing_ok=True)
    job = json.loads(run(args))["jobs"][0]
    side = job["write" if what == "write" else "read"]
    # With end_fsync the runtime of a write job includes the sync.
    seconds = (job["job_runtime"] if what == "write" else side["runtime"]) / 1000
    return side["io_bytes"] / (1 << 20) / seconds


def ior(options, box, what, mib):
    """MiB/s by the harness."""
    flags = {"write": ["-w", "-k", "-e", "-t", "1m", "-b", f"{mib}m"], "read": ["-r", "-k", "-t", "1m", "-b", f"{mib}m"]}
    flags["random 4 KiB"] = ["-r", "-k", "-z", "-t", "4k", "-b", f"{options.random_mib}m"]
    args = [options.hayate, "bench", "ior", "-a", "POSIX", "-o", f"{box}/ior", *flags[what], "-O", f"summaryFormat=JSON,summaryFile={box}/ior.json"]
    run(args + ([] if options.cached else ["-B"]))
    return json.loads(Path(f"{box}/ior.json").read_text())["summary"][0]["bwMaxMIB"]


def compare(options, box):
    rows, wrong = [], []
    for what in ["write", "read", "random 4 KiB"]:
        rates = {"fio": [], "hayate": []}
        for number in range(options.rounds):
            tools = [("fio", fio), ("hayate", ior)]
            for name, tool in tools if number % 2 == 0 else tools[::-1]:
                rates[name].append(tool(options, box, what, options.mib))
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates["hayate"], rates["fio"], strict=True))
        cells = [f"{statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f})" for each in rates.values()]
        rows.append([what, *cells, f"{ratio:.2f}"])
        if abs(ratio - 1) > TOLERANCE:
            wrong.append(f"{what}: {ratio:.2f}")
    return rows, wrong


def main():
    parser = bed.parser(__doc__)
    parser.set_defaults(dir=Path("/var/tmp"))
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--random-mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cached", action="store_true", help="through the page cache; for information, bounds nothing")
    options = bed.parse(parser, mib=4, random_mib=1, rounds=1)
    box = tempfile.mkdtemp(prefix="hayate-fio-", dir=options.dir)
    try:
        where = bed.machine(box)
        before, began = others_us(), time.monotonic()
        rows, wrong = compare(options, box)
        others = (others_us() - before) / 1e6 / (time.monotonic() - began)
    finally:
        shutil.rmtree(box)
    text = table(["MiB/s, " + ("cached" if options.cached else "direct"), "fio", "hayate bench", "ratio (median)"], rows)
    bed.update(options, "fio cached" if options.cached else "fio", f"{where} Meanwhile other programs used {others:.2f} CPUs.\n\n{text}")
    if wrong and not options.cached and not options.quick:
        print(f"more than {TOLERANCE:.0%} apart: {'; '.join(wrong)}" + (", but other programs were busy" if others > BUSY else ""), file=sys.stderr)
        sys.exit(77 if others > BUSY else 1)


if __name__ == "__main__":
    main()
