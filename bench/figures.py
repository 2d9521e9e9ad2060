#!/usr/bin/env python3
"""Regenerates every figure and plot of docs/performance.md, and the scale model's answer in docs/benchmarks.md.

    cargo build --release && cargo build --release --workspace --examples && bench/figures.py     all parts: about an hour and a half, on a machine with nothing else to do
    bench/figures.py --list                                                           the parts, and what each is
    bench/figures.py --only awake scale plots                                         some of them
    bench/figures.py --quick                                                          smallest sizes, to see that it works: minutes

Tables between marks in docs/performance.md are replaced; what programs print besides goes into docs/figures/PART.txt, where the tables that the document
shows in part can be compared; plots go into docs/figures/*.svg, and all of them on one page, docs/figures/bench.html. With --document, --benchmarks and --figures others are
written. Part `scale` also measures the costs of the scale model anew and keeps them where the program takes them from when it is built; part `requirement` asks by those.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bed
from bed import CALIBRATION, ROOT, Cluster, commit


def script(name, *words, quick=(), of="document"):
    """One of the scripts beside this one, which replaces its tables itself, in one of the documents."""

    def command(o):
        more = [word(o) if callable(word) else word for word in (("--quick", *quick) if o.quick else words)]
        return [sys.executable, ROOT / f"bench/{name}.py", *more, "--hayate", o.hayate, "--update", getattr(o, of)]

    return command


def cargo(*words):
    """A test or example, built like the program."""
    return lambda o: ["cargo", *(word for word in words if word != "--release" or o.hayate.parent.name == "release")]


def example(package, name, *words, quick=None):
    def command(o):
        more = [str(o.box) if word == "DIR" else word for word in (quick if o.quick and quick else words)]
        built = o.hayate.parent / "examples" / name
        # What is built already need not be looked at again, in a directory that others may be building in.
        return [built, *more] if built.is_file() else cargo("run", "--release", "-q", "-p", package, "--example", name, "--", *more)(o)

    return command


def test(name, *words):
    """A test of costs. Of all packages, as others build them: fewer would be other features of what they stand on, all compiled again."""
    return cargo("test", "-q", "--workspace", "--test", name, *words, "--", "--nocapture", "--test-threads", "1")


def rdma(o):
    """The end-to-end test of RDMA, of which only what fills the table."""
    steps = "STEPS=compare,change_device,compare_iwarp,table"
    return ["env", f"HAYATE={o.hayate}", "PARTS=one_guest", steps, ROOT / "tests/e2e/rdma.sh"]


DIRTY = ("--svg", lambda o: o.figures / "dirty.svg")
# Part: what it is, and its command.
PARTS = {
    "flush": ("flush next to cp", script("flush")),
    "dirty": ("dirty bytes and the age of the oldest under constant writing, with their plot", script("dirty", "--seconds", "36", *DIRTY, quick=DIRTY)),
    "messages": ("messages, system calls and copies of each operation", test("cost")),
    "mount": ("what the mount asks for each operation", test("mount_cost")),
    "hot": ("a file that all nodes read", script("hot", "--readers", "16", "--rounds", "3")),
    "hot-small": ("a small file and its name, of which all nodes ask", script("hot", "--small", "4096", "--rounds", "5", quick=("--small", "4096"))),
    "layouts": ("bytes between nodes by layout", test("layouts", "bytes")),
    "small": ("small files, with the inode or in chunks, one server", example("hayate-tests", "small_speed", quick=["1", "200", "1", "4096"])),
    "small-four": ("the same, four servers", example("hayate-tests", "small_speed", "4", "3000", "3", "4096", "16384", quick=["4", "200", "1", "4096"])),
    "inline": ("content in the key-value store", example("fs-server", "inline_speed", "DIR", quick=["DIR", "500", "4096"])),
    "growth": ("growth of the chunk store", example("fs-server", "store_scale", "DIR", quick=["DIR", "4", "0"])),
    "store": ("the chunk store beside the device", example("fs-server", "store_speed", "DIR", quick=["DIR", "16", "1"])),
    "transport": ("shared memory, Unix socket, TCP", example("fs-net", "transport_speed", "5", "0.4", quick=["1", "0.02"])),
    "awake": ("next to the bare file system", script("perf", "--of", "9")),
    "inside": ("the mount as a part of its server", script("perf", "--nodes", "1", "--inside", "--files", "2000", "--mib", "256", "--of", "6", "--mark", "inside", quick=["--nodes", "1", "--inside", "--mark", "inside"])),
    "memory": ("memory of a server by files and by extents", script("memory")),
    "limits": ("connections, open files, a memory cap", script("limits", "--long")),
    "startup": ("start-up of a short process, in C and in Python", script("startup")),
    "fio": ("the harness beside fio", script("fio_compare")),
    "scale": ("the costs of the scale model, and its error", script("scale", "--calibrate", CALIBRATION)),
    "checkpoints": ("checkpoints beside plain files, torch's writer, and a program that computes", script("checkpoints")),
    "rdma": ("RDMA beside TCP in an emulated guest (as root)", rdma),
    "requirement": ("the scale model's answer to the requirement", script("requirement", "--calibration", CALIBRATION, of="benchmarks")),
}
# Tables that programs print, of parts whose programs know nothing of documents: mark, what is printed before it (none: anything), and how its heading begins
# (none: all tables, one below the other).
PRINTED = {
    "messages": [
        ("messages direct", "Four servers, the client asks the owner:", "| operation |"),
        ("messages one server", "One server:", "| operation |"),
        ("messages gateway", "Four servers, the client asks one server for everything:", "| operation |"),
    ],
    "layouts": [("layouts", None, "| dump of four nodes |")],
    "small": [("small one server", None, "| bytes | content |")],
    "small-four": [("small four servers", None, "| bytes | content |")],
    "inline": [("inline", None, "| bytes | content |")],
    "growth": [("growth", None, "| step |"), ("growth space", None, "| random overwrites of |")],
    "store": [("store", None, None)],
    "transport": [("transport", None, None)],
    "rdma": [("rdma", None, "| 32 MiB written, read and compared,")],
}
# Tables with figures outside of marks: how the heading begins, and why no part makes them again.
BY_HAND = {
    "| 40,000 files in two bursts |": "what a change did (decision 0036): the program of before is not there any more",
    "| burst | flush, to the end of the command |": "a run of the part flush on another machine, whose `cp` took twice as long",
    "| 512 MiB, a thread for each file |": "programs of nothing but the system calls, once, to find what a copy that compares can reach",
    "| | 256 KiB | 64 KiB |": "what a change did: the program of before is not there any more",
    "| 64 KiB | 128 KiB |": "a program in C that only writes, once, to find why a write was slow",
    "| operation through the mount |": "counts in words; the test mount_cost bounds each of them",
    "| operation | client: messages | bytes | between servers: messages |": "rows of `messages gateway`, side by side with what they mean; the test cost bounds each of them",
    "| buffered | before: MiB/s |": "what a change did: the program of before is not there any more",
    "| ranks | MiB a rank | way | blocking (s) | committed (s) | durable (s) | committed, plain files = 1 |": "4 GiB at a time, once: more than the part checkpoints writes",
}
# Parts that build or take minutes whatever the sizes, which a short run of all leaves out; tests/e2e/figures.sh has them in the long tier.
LONG = ["messages", "mount", "layouts", "small", "small-four", "inline", "growth", "store", "rdma"]


def tables(lines):
    """(number of the first line, lines) of each table."""
    found, at = [], 0
    while at < len(lines):
        end = at
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        if end > at:
            found.append((at, lines[at:end]))
        at = max(end, at + 1)
    return found


def printed(text, after, heading):
    """The table of an output that begins with a heading, after a line; or all tables. None: there is none."""
    lines = text.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.strip() == after), None) if after else 0
    if begin is None:
        return None
    fit = [rows for number, rows in tables(lines) if number >= begin and rows[0].startswith(heading or "|") and len(rows) > 2]
    return "\n\n".join("\n".join(rows) for rows in (fit if heading is None else fit[:1])) or None


def put_printed(name, options):
    """Puts the tables that a part printed between their marks. Whether all were there."""
    text, good = (options.figures / f"{name}.txt").read_text(), True
    where = argparse.Namespace(quick=options.quick, update=options.document)
    for mark, after, heading in PRINTED.get(name, []):
        table = printed(text, after, heading)
        if table is None:
            print(f"{name} printed no table for mark '{mark}'", file=sys.stderr)
            good = False
        else:
            bed.update(where, mark, f"Commit {commit()}, {time.strftime('%Y-%m-%d')}.\n\n{table}")
    return good


def unmarked(documents):
    """What is wrong with the tables outside of marks: those with figures that BY_HAND does not name, and names of none."""
    inside, outside = False, []
    for line in "\n\n".join(document.read_text() for document in documents).splitlines():
        if re.match(r"<!-- (end of )?perf ", line):
            inside = not line.startswith("<!-- end of")
        outside.append("" if inside else line)
    found = [rows for _, rows in tables(outside) if any(re.search(r"\|\s*[-+~*]*\d", row) for row in rows[2:])]
    headings = [rows[0] for rows in found]
    wrong = [f"a table with figures that no part makes again: {heading}" for heading in headings if not any(map(heading.startswith, BY_HAND))]
    return wrong + [f"BY_HAND names a table that is not there: {name}" for name in BY_HAND if not any(heading.startswith(name) for heading in headings)]


def run(command, log, options):
    """Runs a part; its output goes to the log. Whether it succeeded."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    told = " ".join(words).replace(str(options.hayate.parent), "target/release").replace(str(ROOT) + "/", "").replace(sys.executable, "python3")
    told = told.replace(str(options.box), "DIR")
    log.write_text(f"$ {told}\n# commit {commit()}, {time.strftime('%Y-%m-%d')}\n{done.stdout}")
    return done.returncode == 0


def sweep(options):
    """Runs for the plots: transfer sizes, processes, servers, and a mount-free mdtest and checkpoint. Returns the documents."""
    mib = 64 if options.quick else 512
    documents = []

    def bench(cluster, label, *words):
        path = options.box / f"{label}.json"
        where = ["-O", f"summaryFormat=JSON,summaryFile={path}"] if words[0] == "ior" else ["--json", path]
        cluster.command("bench", *words, "-a", "HAYATE", *where)
        documents.append(path)

    for nodes in (1, 2, 4, 8):
        with Cluster(options, f"figures{nodes}") as cluster:
            cluster.up(nodes, tier=True)
            bench(cluster, f"{nodes}-servers", "ior", "-w", "-r", "-C", "-t", "1m", "-b", f"{mib // 2}m", "-np", "2", "-o", "/f")
            if nodes == 4:
                for kib in (4, 16, 64, 256, 4096):
                    size = min(mib, kib * (8 if options.quick else 32))
                    bench(cluster, f"transfer-{kib}k", "ior", "-w", "-r", "-C", "-t", f"{kib}k", "-b", f"{max(size // 2, 4)}m", "-np", "2", "-o", "/f")
                for tasks in (1, 4, 8):
                    bench(cluster, f"{tasks}-processes", "ior", "-w", "-r", "-C", "-t", "1m", "-b", f"{mib // tasks}m", "-np", tasks, "-o", "/f")
                bench(cluster, "mdtest", "mdtest", "-F", "-n", 500 if options.quick else 5000, "-np", "2", "-w", "3901", "-e", "3901", "-d", "/md")
                bench(cluster, "checkpoint", "checkpoint", "-np", "4", "-b", f"{mib // 4}m", "-i", "3", "--durable", "120", "-d", "/ck")
                # Files that are closed while others are made: the servers flush beside it. The last run here, as that goes on for a while.
                seconds = 3 if options.quick else 12
                bench(cluster, "over-time", "mdtest", "-F", "-C", "-u", "-n", "1000000", "-w", "32k", "-W", seconds, "-np", "2", "-d", "/over-time")
    # A report draws the course of so many runs only: the one that was made for it comes first.
    return sorted(documents, key=lambda path: path.stem != "over-time")


# Plots that the document shows: their name there, and what the report calls them after its number.
SHOWN = {
    "bandwidth-against-transfer-size": "bandwidth-against-transfer-size",
    "bandwidth-against-processes": "bandwidth-against-processes",
    "bandwidth-against-servers": "bandwidth-against-servers",
    "how-long-operations-took": "how-long-operations-took",
    "each-server": "each-server*4-servers-write*",
    "throughput-over-time": "throughput-over-time*over-time-file-creation*",
}


def plots(options):
    """Plots by the harness's own report: all on one page, and those that the document shows."""
    documents = sweep(options)
    shown, drawn = options.box / "shown", options.box / "drawn"
    shown.mkdir()
    # Names without the temporary directory: they are in the legends.
    for path in documents:
        shutil.copy(path, shown / path.stem)
    page = options.figures / "bench.html"
    command = [options.hayate, "bench", "report", page, *(path.stem for path in documents), "--svg", drawn]
    subprocess.run([str(word) for word in command], cwd=shown, check=True)
    page.write_text(re.sub(re.escape(str(options.box)), "DIR", page.read_text()).replace(str(options.hayate), "hayate"))
    for name, pattern in SHOWN.items():
        found = sorted(drawn.glob(f"[0-9]*-{pattern}.svg"))
        if not found:
            print(f"the report has no plot {pattern}, but {sorted(path.name for path in drawn.iterdir())}", file=sys.stderr)
            return False
        shutil.copy(found[0], options.figures / f"{name}.svg")
    return True


def main():
    parser = bed.parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="PART", choices=[*PARTS, "plots"], help="these parts")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--long", action="store_true", help="the parts that --quick leaves out")
    parser.add_argument("--document", type=Path, default=bed.DOCUMENT, help="the document with the tables")
    parser.add_argument("--benchmarks", type=Path, default=bed.BENCHMARKS, help="the document with the scale model's answer")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs/figures", help="where plots and logs go")
    parser.add_argument("--marks", action="store_true", help="the marks of tables that this script takes from what a part prints")
    parser.add_argument("--unmarked", action="store_true", help="name the tables of the documents that nothing makes again, unless it is told why")
    if "--marks" in sys.argv:
        print("\n".join(f"{part}\t{mark}" for part, all_of in PRINTED.items() for mark, _, _ in all_of))
        return
    if "--unmarked" in sys.argv:
        parser.set_defaults(hayate=Path(sys.executable))
        options = bed.parse(parser)
        wrong = unmarked([options.document, options.benchmarks])
        print("\n".join(wrong), end="\n" if wrong else "")
        sys.exit(1 if wrong else 0)
    if "--long" in sys.argv:
        print("\n".join(LONG))
        return
    if "--list" in sys.argv:
        print("\n".join(f"{name:12} {what}" for name, (what, _) in PARTS.items()) + "\nplots        bandwidth, durations, balance as SVG")
        return
    options = bed.parse(parser)
    options.document, options.benchmarks, options.figures = (path.resolve() for path in (options.document, options.benchmarks, options.figures))
    options.figures.mkdir(exist_ok=True)
    options.box = Path(tempfile.mkdtemp(prefix="hayate-figures-", dir=options.dir))
    every = [name for name in [*PARTS, "plots"] if not (options.quick and name in LONG)]
    failed = []
    try:
        for name in options.only or every:
            print(f"{name} ...", file=sys.stderr)
            good = plots(options) if name == "plots" else run(PARTS[name][1](options), options.figures / f"{name}.txt", options) and put_printed(name, options)
            failed += [] if good else [name]
    finally:
        bed.remove(options.box)
    if failed:
        sys.exit(f"failed: {', '.join(failed)} (see {options.figures})")


if __name__ == "__main__":
    main()
