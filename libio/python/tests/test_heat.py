"""Goal: the heat equation in Python, killed at any moment and started again, comes to the same result as one that nobody disturbs, and goes on from what the program in C
wrote, to the last bit. Method: the examples as processes, killed by SIGKILL when they have said that they saved so often."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")

import hayate  # noqa: E402

EXAMPLES = Path(os.environ.get("HAYATE_EXAMPLES", Path(__file__).parents[2] / "examples"))
NUMBERS = ["60", "5", "96"]
SET = "/checkpoints/heat"


def clear():
    """The examples' set is the same in every run."""
    fs = hayate.connect()
    if fs.exists(SET):
        checkpoints = hayate.Checkpoints(fs)
        for info in checkpoints.list("heat"):
            try:
                checkpoints.remove("heat", info.version)
            except FileNotFoundError:
                pass  # Begun, and never committed: the next one is.
        fs.rmtree(SET)


def run(command, kill_at=None):
    """Its lines; killed when it has saved so many times."""
    program = subprocess.Popen([*command, os.environ["HAYATE_CLUSTER"], *NUMBERS], stdout=subprocess.PIPE, text=True)
    lines, saved = [], 0
    for line in program.stdout:
        lines.append(line.strip())
        saved += line.startswith("saved ")
        if kill_at is not None and saved == kill_at:
            os.kill(program.pid, signal.SIGKILL)
            break
    assert program.wait(timeout=60) == (0 if kill_at is None else -signal.SIGKILL)
    return lines


def python():
    return [sys.executable, str(EXAMPLES / "heat.py")]


def test_it_is_killed_and_goes_on():
    clear()
    straight = run(python())
    assert straight[0] == "starting at step 0" and straight[-1].startswith("step 60: ")
    clear()
    for kill_at in (1, 2, 3):
        run(python(), kill_at)
    lines = run(python())
    assert int(lines[0].split()[-1]) >= 30 and lines[-1] == straight[-1]
    clear()


@pytest.mark.skipif(shutil.which("cc") is None or not os.environ.get("HAYATE_LIBRARY_DIR"), reason="no C compiler, or no HAYATE_LIBRARY_DIR with libhayate.so")
def test_languages_take_turns(tmp_path):
    """C begins and is killed, Python goes on and is killed, C ends: the result is Python's alone."""
    libraries, program = os.environ["HAYATE_LIBRARY_DIR"], tmp_path / "heat"
    subprocess.run(
        ["cc", "-O2", "-ffp-contract=off", "-o", program, EXAMPLES / "heat.c", "-I", EXAMPLES.parent / "c/include", "-L", libraries, f"-Wl,-rpath,{libraries}", "-lhayate"],
        check=True)
    clear()
    straight = run(python())[-1]
    clear()
    run([str(program)], 2)
    lines = run(python(), 3)
    assert int(lines[0].split()[-1]) >= 10
    lines = run([str(program)])
    assert int(lines[0].split()[-1]) >= 25 and lines[-1] == straight
    clear()
