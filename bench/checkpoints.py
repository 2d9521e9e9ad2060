#!/usr/bin/env python3
"""Checkpoints beside plain files with fsync(2), beside torch's own writer, and what they cost a program that computes.

    cargo build --release -p hayate -p hayate-c && cargo build --release -p libio --examples && bench/checkpoints.py
    bench/checkpoints.py --mib 64 256 1024 4096 --update docs/performance.md
    bench/checkpoints.py --only torch --python VENV/bin/python    with torch and numpy

Four servers (with `--durability device`: what is synced is on the device) and a shared tier, all on one machine and one device, and plain files on the same device.
The ways take turns (A B C A B C ...); each figure is the median.

| part | what |
|---|---|
| burst | blocking, commit and durable time by ranks, MiB of all ranks together, and way (`libio/examples/burst.rs`) |
| torch | `torch.distributed.checkpoint.save` by HayateWriter, and by torch's FileSystemWriter, with its files synced, on a plain directory |
| heat | the heat equation (`libio/examples/heat.c`) in windows with a checkpoint and without, in turns, in one run (`bench/heat_windows.c`): what one costs, of a minute |
"""

import os
import re
import shutil
import statistics
import subprocess
import sys

import bed
from bed import MIB, ROOT, commit, run, table

PARTS = ("burst", "torch", "heat")

# As a program of its own, in the Python that has torch: PROGRAM hayate|torch PLACE MIB; says how long the save took, and what of it the caller was blocked by async_save.
TORCH = """
import sys, time, os, tempfile
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
way, place, mib, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{tempfile.mkdtemp()}/meeting", rank=0, world_size=1)
state = {f"layer{i}": torch.rand((mib << 18) // 8) for i in range(8)}
if way == "hayate":
    from hayate.dcp import HayateWriter
    writer = lambda at: (HayateWriter(place), str(at))
else:
    from torch.distributed.checkpoint import FileSystemWriter
    writer = lambda at: (FileSystemWriter(f"{place}/{at}", sync_files=True, thread_count=1), None)
for at in range(rounds):
    storage, name = writer(2 * at)
    began = time.perf_counter()
    dcp.save(state, storage_writer=storage, checkpoint_id=name)
    saved = time.perf_counter() - began
    storage, name = writer(2 * at + 1)
    began = time.perf_counter()
    saving = dcp.async_save(state, storage_writer=storage, checkpoint_id=name)
    blocked = time.perf_counter() - began
    saving.result()
    print(saved, blocked, time.perf_counter() - began, flush=True)
dist.destroy_process_group()
"""


class Cluster(bed.Cluster):
    """Four servers and a shared tier, and a directory for plain files beside them."""

    def __init__(self, options):
        super().__init__(options, "ckpt")
        self.plain = self.dir / "plain"
        self.plain.mkdir()
        self.up(4, "--durability", "device", tier=True)


def burst(options):
    rows = []
    for mib in options.mib:
        for ranks in (1, 2, 4):
            with Cluster(options) as cluster:
                out = run([bed.example(options, "burst"), cluster.file, cluster.plain, mib // ranks, ranks, options.rounds])
            rows += [[cell.strip() for cell in line.strip("|\n").split("|")] for line in out.splitlines() if line.startswith("|")]
            print("\n".join(" ".join(row) for row in rows[-4:]), file=sys.stderr)
    return table(["ranks", "MiB a rank", "way", "blocking (s)", "committed (s)", "durable (s)", "committed, plain files = 1"], rows)


def torch(options):
    if subprocess.run([options.python, "-c", "import torch, numpy"], capture_output=True, check=False).returncode != 0:
        return f"(left out: {options.python} has no torch; give --python)"
    rows = []
    for mib in options.mib_torch:
        with Cluster(options) as cluster:
            environment = os.environ | {
                "HAYATE_CLUSTER": str(cluster.file), "HAYATE_LIBRARY": str(options.hayate.parent / "libhayate.so"), "PYTHONPATH": str(ROOT / "libio/python"), "PYTHONDONTWRITEBYTECODE": "1",
            }
            program = cluster.dir / "program.py"
            program.write_text(TORCH)
            found = {"hayate": [], "torch": []}
            for turn in range(options.rounds):
                for way in found:
                    place = f"/torch{turn}" if way == "hayate" else cluster.plain / str(turn)
                    # The first save of a process also loads what torch needs.
                    lines = run([options.python, program, way, place, mib, 2], environment).splitlines()
                    found[way].append([float(word) for word in lines[-1].split()])
                    if way == "torch":
                        shutil.rmtree(place)
            for way, name in (("torch", "FileSystemWriter, plain directory, synced"), ("hayate", "HayateWriter")):
                rows.append([str(mib), name, *(f"{statistics.median(column):.3f}" for column in zip(*found[way]))])
                print(*rows[-1], file=sys.stderr)
    return table(["MiB", "writer", "save (s)", "async_save returns (s)", "and is done (s)"], rows)


def heat(options):
    rows = []
    for side in options.side:
        with Cluster(options) as cluster:
            program, libraries = cluster.dir / "heat", options.hayate.parent
            words = ["-O2", "-ffp-contract=off", "-o", program, ROOT / "bench/heat_windows.c", "-I", ROOT / "libio/c/include"]
            run(["cc", *words, "-L", libraries, f"-Wl,-rpath,{libraries}", "-lhayate"])
            rows.append(heat_row(side, run([program, cluster.file, 2 * options.windows + 1, options.seconds, side])))
        print(*rows[-1], file=sys.stderr)
    header = ["plate (MiB)", "pairs of windows", "one without a checkpoint (s)", "quartiles (s)", "blocked (ms)", "lost (ms)", "quartiles (ms)", "blocked at one a minute (%)", "lost at one a minute (%)"]
    return table(header, rows)


def heat_row(side, said):
    """The figures of a run whose windows were without and with a checkpoint in turns: what one costs is by how much its window is longer than those beside it."""
    windows = [(kind == "with", float(took), float(blocked)) for kind, took, blocked in re.findall(r"window (\w+) ([\d.]+) s, blocked ([\d.]+) s", said)]
    bare = [took for loaded, took, _ in windows if not loaded]
    lost = [windows[at][1] - (windows[at - 1][1] + windows[at + 1][1]) / 2 for at in range(1, len(windows) - 1, 2)]
    cost, stop = statistics.median(lost), statistics.median(blocked for loaded, _, blocked in windows if loaded)
    quartiles = lambda sample: (sorted(sample)[len(sample) // 4], sorted(sample)[-1 - len(sample) // 4])
    return [
        str(side * side * 8 // MIB), str(len(lost)), f"{statistics.median(bare):.2f}", "{:.2f} to {:.2f}".format(*quartiles(bare)), f"{stop * 1e3:.0f}", f"{cost * 1e3:.0f}",
        "{:.0f} to {:.0f}".format(*(each * 1e3 for each in quartiles(lost))), f"{100 * stop / 60:.2f}", f"{100 * cost / 60:.2f}",
    ]


def parse_options():
    parser = bed.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and numpy")
    parser.add_argument("--mib", nargs="+", type=int, default=[64, 256, 1024], help="of all ranks together; the requirement's largest is 4096, for which 30 GB of disk are needed")
    parser.add_argument("--mib-torch", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs="+", type=int, default=[2048, 4096], help="of the heat equation's plate")
    parser.add_argument("--windows", type=int, default=15, help="of the heat equation, with a checkpoint")
    parser.add_argument("--seconds", type=int, default=10, help="of one window, about: long enough for what a checkpoint leaves to be done afterwards")
    return bed.parse(parser, mib=[16], mib_torch=[16], rounds=1, seconds=1, side=[256], windows=2, only=["burst", "heat"])


def main():
    options = parse_options()
    for part in options.only:
        text = f"{os.cpu_count()} CPUs, commit {commit()}\n\n{globals()[part](options)}"
        bed.update(options, f"checkpoints {part}", text)


if __name__ == "__main__":
    main()
