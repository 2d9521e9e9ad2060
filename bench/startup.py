#!/usr/bin/env python3
"""Start-up of a short process: connecting, one question, ending. Short processes must not suffer: the median in C is under 5 ms, or this fails.

    bench/startup.py                                         print the table
    bench/startup.py --update docs/performance.md

The program is that of the tests (libio/c/tests/c/short.c), linked with the library beside the program; an empty one, run in turn with it, shows what a process costs that does
nothing. In Python the time from the import on is what the process itself sees, and an interpreter that imports nothing is run in turn.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time

import bed
from bed import ROOT, Cluster, table

BOUND_MS = 5.0

PYTHON = """
import time
began = time.perf_counter()
import hayate
fs = hayate.connect()
fs.stat("/")
print((time.perf_counter() - began) * 1e3)
"""


def compiled(cluster, source, *words):
    program = cluster.dir / source.stem
    bed.run(["cc", "-O2", "-o", program, source, *words])
    return str(program)


def ends_after(words, env):
    """Milliseconds until a process has ended."""
    began = time.perf_counter()
    pid = os.posix_spawn(words[0], words, env)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        sys.exit(f"{' '.join(words)}: exit status {code}")
    return (time.perf_counter() - began) * 1e3


def environment(cluster, options):
    """That of a user of the wheel: the package with what Python keeps of it between runs."""
    site = cluster.dir / "site"
    shutil.copytree(ROOT / "libio/python/hayate", site / "hayate", ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "HAYATE_CLUSTER": str(cluster.file), "HAYATE_LIBRARY": str(options.hayate.parent / "libhayate.so"), "PYTHONPATH": str(site)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def measure(options):
    with Cluster(options, "startup") as cluster:
        cluster.up(options.nodes)
        nothing, library = cluster.dir / "empty.c", options.hayate.parent
        nothing.write_text("int main(void) { return 0; }\n")
        linked = [f"-I{ROOT}/libio/c/include", f"-L{library}", f"-Wl,-rpath,{library}", "-lhayate"]
        empty = [compiled(cluster, nothing)]
        short = [compiled(cluster, ROOT / "libio/c/tests/c/short.c", *linked), str(cluster.file)]
        env = environment(cluster, options)
        imports = [sys.executable, "-c", PYTHON]
        rows = {"an empty program in C": [], "connect, stat, end, in C": [], "an interpreter of Python that imports nothing": [], "import, connect, stat, in Python": []}
        for number in range(options.runs + 1):
            inside = subprocess.run(imports, env=env, capture_output=True, text=True, check=True).stdout
            round_ms = [ends_after(empty, env), ends_after(short, env), ends_after([sys.executable, "-c", ""], env), float(inside)]
            if number > 0:  # The first one brings things into memory.
                for samples, took_ms in zip(rows.values(), round_ms):
                    samples.append(took_ms)
        return bed.machine(cluster.dir), rows


def main():
    parse = bed.parser(__doc__)
    parse.add_argument("--runs", type=int, default=200, help="of each program")
    parse.add_argument("--nodes", type=int, default=4)
    options = bed.parse(parse, runs=5, nodes=2)
    library = options.hayate.parent / "libhayate.so"
    if not library.is_file():
        sys.exit(f"{library} does not exist: cargo build --release -p hayate-c, or --workspace")
    machine, rows = measure(options)
    lines = []
    for name, samples in rows.items():
        samples.sort()
        shown = samples[0], statistics.median(samples), samples[len(samples) * 9 // 10]
        lines.append([name, *(f"{took_ms:.1f}" for took_ms in shown)])
    text = table([f"milliseconds, {options.runs} runs each, {options.nodes} servers", "best", "median", "90th percentile"], lines)
    bed.update(options, "startup", f"{machine}\n\n{text}")
    median = statistics.median(rows["connect, stat, end, in C"])
    if median > BOUND_MS and not options.quick:
        sys.exit(f"a short process takes {median:.1f} ms, more than {BOUND_MS:.0f}")


if __name__ == "__main__":
    main()
