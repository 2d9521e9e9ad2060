#!/usr/bin/env python3
"""Regenerates every figure and plot of docs/performance.md.

    cargo build --release && bench/figures.py              all parts: about an hour, on a machine with nothing else to do
    bench/figures.py --list                                the parts, and what each is
    bench/figures.py --only awake scale plots              some of them
    bench/figures.py --quick --only plots                  smaller sweeps, to see that it works

Tables between marks in docs/performance.md are replaced; what programs print besides goes into docs/figures/PART.txt, where the tables that the document
shows in part can be compared; plots go into docs/figures/*.svg, and all of them on one page, docs/figures/bench.html.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perf import commit

HERE = Path(__file__).resolve().parent.parent
DOCUMENT = HERE / "docs/performance.md"
FIGURES = HERE / "docs/figures"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
HAYATE = TARGET / "release/hayate"


def script(name, *words):
    """One of the scripts beside this one, which replaces its tables itself."""
    return lambda o: [sys.executable, HERE / f"bench/{name}.py", *words, "--update", DOCUMENT, *(["--hayate", HAYATE] if name != "limits" else [])]


def example(package, name, *words):
    return lambda o: ["cargo", "run", "--release", "-q", "-p", package, "--example", name, "--", *[str(w) if w != "DIR" else str(o.box) for w in words]]


def test(package, name, *words):
    return lambda o: ["cargo", "test", "-q", "-p", package, "--test", name, *words, "--", "--nocapture", "--test-threads", "1"]


# Part: what it is, and its command.
PARTS = {
    "messages": ("messages, system calls and copies of each operation", test("hayate-tests", "cost")),
    "mount": ("what the mount asks for each operation", test("hayate-tests", "mount_cost")),
    "layouts": ("bytes between nodes by layout", test("hayate-tests", "layouts", "bytes")),
    "small": ("small files, with the inode or in chunks", example("hayate-tests", "small_speed")),
    "inline": ("content in the key-value store", example("fs-server", "inline_speed")),
    "growth": ("growth of the chunk store", example("fs-server", "store_scale", "DIR")),
    "store": ("the chunk store beside the device", example("fs-server", "store_speed", "DIR")),
    "transport": ("shared memory, Unix socket, TCP", example("fs-net", "transport_speed", "5", "0.4")),
    "awake": ("next to the bare file system", script("perf", "--of", "9")),
    "memory": ("memory of a server by files", script("memory")),
    "limits": ("connections, open files, a memory cap", script("limits", "--long")),
    "fio": ("the harness beside fio", script("fio_compare")),
    "scale": ("the scale model and its error", script("scale")),
    "checkpoints": ("checkpoints beside plain files, torch's writer, and a program that computes", script("checkpoints")),
    "requirement": ("the scale model's answer to the requirement", lambda o: [HAYATE, "bench", "scale"]),
}


def run(command, log):
    """Runs a part; its output goes to the log. Whether it succeeded."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    told = " ".join(words).replace(str(TARGET), "target").replace(str(HERE) + "/", "").replace(sys.executable, "python3")
    log.write_text(f"$ {told}\n# commit {commit()}, {time.strftime('%Y-%m-%d')}\n{done.stdout}")
    return done.returncode == 0


def sweep(options):
    """Runs for the plots: transfer sizes, processes, servers, and a mount-free mdtest and checkpoint. Returns the documents."""
    mib = 64 if options.quick else 512
    documents = []

    def bench(nodes, label, *words):
        path = options.box / f"{label}.json"
        where = ["-O", f"summaryFormat=JSON,summaryFile={path}"] if words[0] == "ior" else ["--json", path]
        command = [HAYATE, "--cluster", options.box / f"c{nodes}.toml", "bench", *words, "-a", "HAYATE", *where]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        documents.append(path)

    for nodes in (1, 2, 4, 8):
        hayate = [HAYATE, "--cluster", options.box / f"c{nodes}.toml"]
        tier = options.box / f"tier{nodes}"
        tier.mkdir()
        subprocess.run([*hayate, "up", "--nodes", str(nodes), "--store", options.box / f"s{nodes}", "--tier", tier, "--name", f"figures{nodes}"], check=True, stdout=subprocess.DEVNULL)
        try:
            bench(nodes, f"{nodes}-servers", "ior", "-w", "-r", "-C", "-t", "1m", "-b", f"{mib // 2}m", "-np", "2", "-o", "/f")
            if nodes == 4:
                for kib in (4, 16, 64, 256, 4096):
                    size = min(mib, kib * (8 if options.quick else 32))
                    bench(4, f"transfer-{kib}k", "ior", "-w", "-r", "-C", "-t", f"{kib}k", "-b", f"{max(size // 2, 4)}m", "-np", "2", "-o", "/f")
                for tasks in (1, 4, 8):
                    bench(4, f"{tasks}-processes", "ior", "-w", "-r", "-C", "-t", "1m", "-b", f"{mib // tasks}m", "-np", str(tasks), "-o", "/f")
                bench(4, "mdtest", "mdtest", "-F", "-n", str(500 if options.quick else 5000), "-np", "2", "-w", "3901", "-e", "3901", "-d", "/md")
                bench(4, "checkpoint", "checkpoint", "-np", "4", "-b", f"{mib // 4}m", "-i", "3", "--durable", "120", "-d", "/ck")
        finally:
            subprocess.run([*hayate, "down", "--discard"], check=False, stdout=subprocess.DEVNULL)
    return documents


def plots(options):
    """Plots by the harness's own report."""
    documents = [str(path) for path in sweep(options)]
    for old in FIGURES.glob("*.svg"):
        old.unlink()
    shown = options.box / "shown"
    shown.mkdir()
    # Names without the temporary directory: they are in the legends.
    for path in documents:
        shutil.copy(path, shown / Path(path).stem)
    names = [Path(path).stem for path in documents]
    subprocess.run([str(HAYATE), "bench", "report", str(FIGURES / "bench.html"), *names, "--svg", str(FIGURES)], cwd=shown, check=True)
    page = FIGURES / "bench.html"
    page.write_text(re.sub(re.escape(str(options.box)), "DIR", page.read_text()).replace(str(HAYATE), "hayate"))
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PART", choices=[*PARTS, "plots"], help="these parts")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true", help="smaller sweeps for the plots")
    parser.add_argument("--dir", default=None, help="where stores and files go (default: the temporary directory)")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:12} {what}" for name, (what, _) in PARTS.items()) + "\nplots        bandwidth, durations, balance as SVG")
        return
    FIGURES.mkdir(exist_ok=True)
    options.box = Path(tempfile.mkdtemp(prefix="hayate-figures-", dir=options.dir))
    failed = []
    try:
        for name in options.only or [*PARTS, "plots"]:
            print(f"{name} ...", file=sys.stderr)
            good = plots(options) if name == "plots" else run(PARTS[name][1](options), FIGURES / f"{name}.txt")
            failed += [] if good else [name]
    finally:
        shutil.rmtree(options.box, ignore_errors=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)} (see docs/figures)")


if __name__ == "__main__":
    main()
