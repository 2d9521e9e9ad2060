#!/usr/bin/env python3
"""Under constant write load: how many bytes wait for tier 2, and how old the oldest file is that waits. Over time, as a plot.

    cargo build --release && bench/dirty.py                                              a minute and a half
    bench/dirty.py --seconds 36 --svg docs/figures/dirty.svg --update docs/performance.md    what docs/performance.md shows

Servers with a cap on dirty bytes, and a tier that is slower than the writers (a bandwidth cap stands in for a shared file system that others use, too).
Writers make files as fast as they are let, without a pause, and remove old ones so that tier 1 does not fill. In the middle third there are
twice as many writers. Each half second all servers are asked for what waits. The
script ends with status 1 if dirty bytes exceed their cap by more than a file for each writer, or the oldest is older than its bound.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import bed
from bed import MIB, Cluster, commit, table

WRITER = """
import os, sys, time
top, size, kept, until = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
block, number, longest = os.urandom(1 << 20), 0, 0.0
os.mkdir(top)
while time.time() < until:
    began = time.time()
    with open(f"{top}/{number}", "wb", buffering=0) as out:
        for _ in range(size >> 20):
            out.write(block)
    longest = max(longest, time.time() - began)
    if number >= kept:
        os.unlink(f"{top}/{number - kept}")
    number += 1
print(number, longest)
"""


def look(cluster):
    """Dirty bytes of all servers and of the one with most, age of the oldest in seconds, bytes a second to the tier."""
    accounts = [status["flush"] for status in cluster.status()]
    dirty = [account["pending_bytes"] for account in accounts]
    return sum(dirty), max(dirty), max(account["oldest_ms"] for account in accounts) / 1000, sum(account["bytes_per_s"] for account in accounts)


def measure(cluster):
    """Samples, and what each writer made with the longest time that a file took."""
    o = cluster.options
    began = time.time()
    starts = [began] * o.writers + [began + o.seconds / 3] * o.writers
    ends = [began + o.seconds] * o.writers + [began + 2 * o.seconds / 3] * o.writers
    waiting, running, samples = list(enumerate(zip(starts, ends))), [], []
    while time.time() < began + o.seconds:
        while waiting and waiting[0][1][0] <= time.time():
            number, (_, until) = waiting.pop(0)
            words = [cluster.mount / f"w{number}", o.file * MIB, o.kept, until]
            running.append(subprocess.Popen([sys.executable, "-c", WRITER, *map(str, words)], stdout=subprocess.PIPE, text=True))
        samples.append((time.time() - began, *look(cluster)))
        time.sleep(0.5)
    made = []
    for writer in running:
        said = writer.communicate()[0].split()
        if writer.returncode != 0:
            sys.exit("a writer failed: nobody may get an error because of the cap")
        made.append((int(said[0]), float(said[1])))
    return samples, made


def line(points, color):
    return f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def panel(top, title, unit, samples, value, bound, bound_text, seconds):
    """One chart: 640 wide, 170 high, its bound as a dashed line."""
    left, width, height = 60, 640, 170
    high = 1.15 * max([bound] + [value(s) for s in samples])
    x = lambda t: left + width * t / seconds
    y = lambda v: top + height - height * v / high
    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}</text>', f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>']
    for part in range(5):
        v = high * part / 4
        parts.append(f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:,.0f}</text>')
    parts.append(f'<text x="{left - 50}" y="{top + height / 2}" transform="rotate(-90 {left - 46} {top + height / 2})" text-anchor="middle">{unit}</text>')
    for part in range(7):
        parts.append(f'<text x="{x(seconds * part / 6):.1f}" y="{top + height + 16}" text-anchor="middle">{seconds * part / 6:.0f}</text>')
    parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y(bound):.1f}" y2="{y(bound):.1f}" stroke="#c33" stroke-dasharray="6 4"/>')
    parts.append(f'<text x="{left + width - 6}" y="{y(bound) - 5:.1f}" text-anchor="end" fill="#c33">{bound_text}</text>')
    parts.append(line([(x(s[0]), y(value(s))) for s in samples], "#1a5fb4"))
    return parts


def svg(options, samples):
    cap = options.cap * options.servers
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="720" height="470" font-family="sans-serif" font-size="12">', '<rect width="720" height="470" fill="white"/>']
    parts += panel(30, f"Bytes that wait for tier 2, {options.servers} servers", "MiB", samples, lambda s: s[1] / MIB, cap, f"cap: {options.cap} MiB a server", options.seconds)
    parts += panel(250, "Age of the oldest file that waits", "seconds", samples, lambda s: s[3], options.oldest, f"bound: {options.oldest:.0f} s", options.seconds)
    parts.append(f'<text x="380" y="450" text-anchor="middle">seconds of constant writing; twice the writers from {options.seconds / 3:.0f} to {2 * options.seconds / 3:.0f}</text></svg>')
    return "\n".join(parts) + "\n"


def report(options, samples, made):
    settled = [s for s in samples if s[0] > min(5, options.seconds / 3)]
    rows = [
        ["dirty bytes of a server, MiB", f"{statistics.median(s[2] for s in settled) / MIB:.0f}", f"{max(s[2] for s in samples) / MIB:.0f}", f"{options.cap} and a file for each writer: {options.cap + 2 * options.writers * options.file}"],
        ["age of the oldest, s", f"{statistics.median(s[3] for s in settled):.1f}", f"{max(s[3] for s in samples):.1f}", f"{options.oldest:.0f}"],
        ["to the tier, all servers, MiB/s", f"{statistics.median(s[4] for s in settled) / MIB:.0f}", f"{max(s[4] for s in samples) / MIB:.0f}", f"{options.bandwidth * options.servers} allowed"],
    ]
    files, longest = sum(m[0] for m in made), max(m[1] for m in made)
    text = table(["", "median", "most", "bound"], rows)
    return text + (
        f"\n\n{options.servers} servers, cap {options.cap} MiB and {options.bandwidth} MiB/s each; {options.writers} writers, twice as many in the middle third; {files} files of"
        f" {options.file} MiB in {options.seconds} s, {files * options.file / options.seconds:.0f} MiB/s; a file took at most {longest:.1f} s; no error. Commit {commit()}."
    )


def main():
    parser = bed.parser(__doc__)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--cap", type=int, default=64, help="dirty MiB of each server")
    parser.add_argument("--bandwidth", type=int, default=16, help="MiB/s of each server to the tier")
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--file", type=int, default=4, help="MiB of each file")
    parser.add_argument("--kept", type=int, default=40, help="files that each writer keeps")
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--oldest", type=float, default=20, help="bound of the age, seconds")
    parser.add_argument("--svg", type=Path)
    options = bed.parse(parser, seconds=4, writers=1, cap=16, file=1)
    with Cluster(options, "dirty") as cluster:
        words = ["--dirty-max", f"{options.cap}M", "--flush-bandwidth", f"{options.bandwidth}M"]
        cluster.up(options.servers, *words, tier=True, mount=True)
        samples, made = measure(cluster)
    bed.update(options, "dirty", report(options, samples, made))
    if options.svg:
        options.svg.write_text(svg(options, samples))
    most, oldest = max(s[2] for s in samples) / MIB, max(s[3] for s in samples)
    sys.exit(0 if options.quick or most <= options.cap + 2 * options.writers * options.file and oldest <= options.oldest else 1)


if __name__ == "__main__":
    main()
