#!/usr/bin/env python3
"""Checkpoints beside plain files with fsync(2), beside torch's own writer, and what they cost a program that computes.

    cargo build --release -p hayate -p hayate-c && cargo build --release -p libio --examples && bench/checkpoints.py
    bench/checkpoints.py --mib 64 256 1024 4096 --update docs/performance.md
    bench/checkpoints.py --only torch --python VENV/bin/python    with torch and numpy (target/tools/venv-torch, by ./test torch); up to 4 GiB: --mib-torch 64 256 1024 4096

Four servers (with `--durability device`: what is synced is on the device) and a shared tier, all on one machine and one device, and plain files on the same device.
The ways take turns (A B C A B C ...); each figure is the median.

| part | what |
|---|---|
| burst | blocking, commit and durable time by ranks, MiB of all ranks together, and way (`libio/examples/burst.rs`) |
| torch | `torch.distributed.checkpoint.save` and `async_save` by HayateWriter, and by torch's FileSystemWriter, with its files synced, on a plain directory; MiB of all ranks together |
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
RANKS_S = 1800  # A run of torch's ranks ends by then, or something hangs.

# One rank, as a program of its own in the Python that has torch: PROGRAM hayate|torch PLACE MIB RANK RANKS MEETING. Says how long the save took, of async_save for how long the caller
# was blocked, and when it was done. A small state goes before: the first save of a process also loads what torch needs.
TORCH = """
import shutil, sys, time
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
way, place, mib, rank, ranks, meeting = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
mesh = init_device_mesh("cpu", (ranks,))
def rows(mib):  # Each rank has its rows of eight tensors.
    share = (mib << 18) // 8 // ranks
    local = {f"layer{i}": torch.rand(share // 1024, 1024) for i in range(8)}
    return {name: DTensor.from_local(part, mesh, [Shard(0)], run_check=False) for name, part in local.items()}
if way == "hayate":
    from hayate.dcp import HayateWriter
    writer = lambda at: {"storage_writer": HayateWriter(place), "checkpoint_id": str(at)}
else:
    from torch.distributed.checkpoint import FileSystemWriter
    writer = lambda at: {"storage_writer": FileSystemWriter(f"{place}/{at}", sync_files=True, thread_count=1)}
state = rows(8 * ranks)
dcp.save(state, **writer(0))
dcp.async_save(state, **writer(1)).result()
state = rows(mib)
dist.barrier()
began = time.perf_counter()
dcp.save(state, **writer(2))
saved = time.perf_counter() - began
dist.barrier()
# What was saved makes room.
if rank == 0 and way == "hayate":
    from hayate.dcp import prune
    prune(place, keep=1)
elif rank == 0:
    shutil.rmtree(place)
dist.barrier()
began = time.perf_counter()
saving = dcp.async_save(state, **writer(3))
blocked = time.perf_counter() - began
saving.result()
print(saved, blocked, time.perf_counter() - began, flush=True)
dist.barrier()
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
    found = subprocess.run([options.python, "-c", "import numpy, torch; print(torch.__version__)"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return f"(left out: {options.python} has no torch; give --python)"
    rows = []
    for mib in options.mib_torch:
        for ranks in options.ranks_torch:
            with Cluster(options) as cluster:
                rows += torch_rows(options, cluster, mib, ranks)
            print("\n".join(" ".join(row) for row in rows[-2:]), file=sys.stderr)
    made = table(["MiB", "ranks", "writer", "save (s)", "async_save returns (s)", "and is done (s)"], rows)
    return f"Medians of {options.rounds} rounds, torch {found.stdout.strip()}:\n\n{made}"


def torch_rows(options, cluster, mib, ranks):
    """A row for each writer, which take turns."""
    environment = os.environ | {
        "HAYATE_CLUSTER": str(cluster.file), "HAYATE_LIBRARY": str(options.hayate.parent / "libhayate.so"), "PYTHONPATH": str(ROOT / "libio/python"), "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = cluster.dir / "program.py"
    program.write_text(TORCH)
    found = {"torch": [], "hayate": []}
    for turn in range(options.rounds):
        for way, samples in found.items():
            place = f"/torch{turn}" if way == "hayate" else str(cluster.plain / str(turn))
            words = [options.python, program, way, place, mib]
            meeting = cluster.dir / f"meeting-{way}{turn}"
            samples.append(slowest([words + [rank, ranks, meeting] for rank in range(ranks)], environment))
            if way == "hayate":
                cluster.command("rm", "-r", place)
            else:
                shutil.rmtree(place)
    names = {"torch": "FileSystemWriter, plain directory, synced", "hayate": "HayateWriter"}
    return [[str(mib), str(ranks), names[way], *(f"{statistics.median(column):.3f}" for column in zip(*samples))] for way, samples in found.items()]


def slowest(commands, environment):
    """Runs one process for each rank; of each figure the largest that a rank says."""
    processes = [subprocess.Popen([str(word) for word in words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for words in commands]
    said = []
    try:
        for process in processes:
            output, errors = process.communicate(timeout=RANKS_S)
            if process.returncode != 0:
                sys.exit(f"a rank of torch: exit status {process.returncode}\n{errors[-3000:]}")
            said.append([float(word) for word in output.splitlines()[-1].split()])
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    return [max(column) for column in zip(*said)]


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
    parser.add_argument("--mib-torch", nargs="+", type=int, default=[64, 256], help="of all ranks together; for 4096 MiB 25 GB of disk and 10 GB of memory are needed")
    parser.add_argument("--ranks-torch", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs="+", type=int, default=[2048, 4096], help="of the heat equation's plate")
    parser.add_argument("--windows", type=int, default=15, help="of the heat equation, with a checkpoint")
    parser.add_argument("--seconds", type=int, default=10, help="of one window, about: long enough for what a checkpoint leaves to be done afterwards")
    return bed.parse(parser, mib=[16], mib_torch=[16], ranks_torch=[1, 2], rounds=1, seconds=1, side=[256], windows=2, only=["burst", "heat"])


def main():
    options = parse_options()
    for part in options.only:
        text = f"{os.cpu_count()} CPUs, commit {commit()}\n\n{globals()[part](options)}"
        bed.update(options, f"checkpoints {part}", text)


if __name__ == "__main__":
    main()
