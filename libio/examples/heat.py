#!/usr/bin/env python3
"""A two-dimensional heat equation that checkpoints and restarts: kill it whenever you like, start it again, and it goes on from the newest version, to the same
result. heat.rs and heat.c are the same in Rust and C, to the last bit: each goes on from what another wrote.

    pip install ./libio/python numpy
    python libio/examples/heat.py CLUSTER_FILE [STEPS [EVERY [SIDE]]]
"""

import sys
import time

import numpy as np

import hayate

SET = "heat"


def restart(checkpoints, plate):
    """The newest version that can be read, into `plate`; 0 if there is none. One that cannot be read is not offered again."""
    while (version := checkpoints.latest(SET)) is not None:
        try:
            checkpoints.restore(SET, version, {"plate": plate})
            return version
        except (OSError, ValueError) as error:
            print(f"version {version}: {error}", file=sys.stderr)
            checkpoints.finish(SET, version, ok=False)
    plate[:] = 0
    plate[0] = 100
    return 0


def step(old, new):
    """The border keeps its temperature. The sums are in the order of the programs in C and Rust."""
    middle = old[1:-1, 1:-1]
    around = old[:-2, 1:-1] + old[2:, 1:-1] + old[1:-1, :-2] + old[1:-1, 2:]
    new[1:-1, 1:-1] = middle + 0.2 * (around - 4.0 * middle)


def digest(plate):
    """All bits of all cells (FNV-1a over 64-bit words)."""
    hash = 0xCBF29CE484222325
    for bits in plate.view(np.uint64).ravel().tolist():
        hash = (hash ^ bits) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return hash


def main():
    cluster, *numbers = sys.argv[1:]
    steps, every, side = (int(number) for number in numbers + ["1000", "100", "512"][len(numbers):])
    checkpoints = hayate.Checkpoints(hayate.connect(cluster), "/checkpoints")
    plate = np.zeros((side, side))
    done = restart(checkpoints, plate)
    print(f"starting at step {done}", flush=True)
    new, blocked, began = plate.copy(), 0.0, time.monotonic()
    while done < steps:
        step(plate, new)
        plate, new = new, plate
        done += 1
        if every and done % every == 0:
            stopped = time.monotonic()
            try:
                with checkpoints.begin(SET, done) as writer:
                    writer.write("plate", plate)
            except FileExistsError:
                pass  # Of a run before, and not offered: damaged, or a restart from it failed. The next one will do.
            try:
                checkpoints.prune(SET, keep=2)
            except OSError as error:
                # A server that is silent holds up pruning, and not the run.
                print(f"older versions stay for now: {error}", file=sys.stderr)
            blocked += time.monotonic() - stopped
            print(f"saved {done}", flush=True)
    print(f"ran {time.monotonic() - began:.3f} s, of which checkpoints {blocked:.3f} s")
    print(f"step {done}: {np.add.accumulate(plate.ravel())[-1] / plate.size:.12f} degrees on average, {digest(plate):016x}")


if __name__ == "__main__":
    main()
