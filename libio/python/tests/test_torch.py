"""Goal: torch's distributed checkpoints appear whole or not at all, and come back as they were. Method: dcp.save, async_save and load of all kinds of tensors;
failures of a rank; two ranks that become one; the example, killed again and again.

Most processes begin as forks of one that has torch imported, which takes longer than what they do; with HAYATE_TEST_LONG each is an interpreter of its own, and ranks are torchrun's."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (tests/e2e/torch.sh installs it)")

import torch.distributed.checkpoint as dcp  # noqa: E402

from hayate.dcp import HayateReader, HayateWriter, latest, prune, versions  # noqa: E402

EXAMPLE = Path(os.environ.get("HAYATE_EXAMPLES", Path(__file__).parents[2] / "examples")) / "torch_training.py"
LONG = "HAYATE_TEST_LONG" in os.environ
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([
    "torch", "torch.distributed.checkpoint.state_dict", "torch.distributed.device_mesh", "torch.distributed.tensor", "torch.optim", "hayate.dcp"])


@pytest.fixture
def checkpoints(place):
    return f"{place}/set"


def some_state(fill=1.0):
    return {
        "matrix": torch.full((300, 400), fill),
        "half": torch.arange(10, dtype=torch.float32).to(torch.bfloat16) * fill,
        "scalar": torch.tensor(3.5 * fill),
        "empty": torch.empty(0, 3),
        "bools": torch.tensor([True, False]),
        "view": torch.arange(24).reshape(4, 6).t(),
        "complex": torch.tensor([1 + 2j, 3 - 1j]) * fill,
        "nested": {"list": [1, "two", torch.ones(3) * fill], "step": 7},
    }


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two) and one.dtype == two.dtype
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def test_all_kinds_of_state(checkpoints):
    state = some_state()
    dcp.save(state, storage_writer=HayateWriter(checkpoints), checkpoint_id="12")
    back = some_state(0.0)
    assert not same(state, back)
    dcp.load(back, storage_reader=HayateReader(checkpoints), checkpoint_id="12")
    assert same(state, back)
    assert versions(checkpoints) == [12]


def test_numbers(checkpoints):
    writer = HayateWriter(checkpoints)
    assert latest(checkpoints) is None
    with pytest.raises(dcp.api.CheckpointException, match="no version"):
        dcp.load(some_state(), storage_reader=HayateReader(checkpoints))
    for fill in (1.0, 2.0, 3.0):
        dcp.save(some_state(fill), storage_writer=writer)
    assert versions(checkpoints) == [0, 1, 2] and writer.checkpoint_id == "2"
    with pytest.raises(dcp.api.CheckpointException, match="committed"):
        dcp.save(some_state(9.0), storage_writer=writer, checkpoint_id="1")
    back = some_state(0.0)
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert same(back, some_state(3.0))
    deadline, removed = time.monotonic() + 60, 0
    while versions(checkpoints) != [1, 2]:  # Version 0 stays while it is the newest durable one; tier 2 follows.
        removed += prune(checkpoints, keep=2)
        assert time.monotonic() < deadline, versions(checkpoints)
    assert removed == 1
    dcp.load(back, storage_reader=HayateReader(checkpoints), checkpoint_id="1")
    assert same(back, some_state(2.0))
    with pytest.raises(ValueError, match="number"):
        dcp.save(some_state(), storage_writer=writer, checkpoint_id="newest")


def test_tensors_are_loaded_into_their_memory(checkpoints):
    state = {"matrix": torch.rand(1000, 1000)}
    dcp.save(state, storage_writer=HayateWriter(checkpoints))
    back = {"matrix": torch.zeros(1000, 1000)}
    before = back["matrix"].data_ptr()
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert back["matrix"].data_ptr() == before and torch.equal(back["matrix"], state["matrix"])
    other_type = {"matrix": torch.zeros(1000, 1000, dtype=torch.float64)}
    dcp.load(other_type, storage_reader=HayateReader(checkpoints))
    assert torch.equal(other_type["matrix"], state["matrix"].double())


class FailingWriter(HayateWriter):
    """Fails at a given point."""

    def __init__(self, path, point):
        super().__init__(path)
        self.point = point

    def _item(self, item, planner, region, offset):
        if self.point == "data" and item.index.fqn == "matrix":
            raise OSError(28, "no space, says the test")
        return super()._item(item, planner, region, offset)

    def finish(self, metadata, results):
        if self.point == "manifest":
            raise OSError(28, "no space, says the test")
        super().finish(metadata, results)


@pytest.mark.parametrize("point", ["data", "manifest"])
def test_a_failure_leaves_the_older_version(fs, checkpoints, point):
    dcp.save(some_state(1.0), storage_writer=HayateWriter(checkpoints), checkpoint_id="1")
    with pytest.raises(dcp.api.CheckpointException, match="no space"):
        dcp.save(some_state(2.0), storage_writer=FailingWriter(checkpoints, point), checkpoint_id="2")
    assert versions(checkpoints) == [1]
    back = some_state(0.0)
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert same(back, some_state(1.0))
    dcp.save(some_state(3.0), storage_writer=HayateWriter(checkpoints), checkpoint_id="2")
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert same(back, some_state(3.0))


@pytest.mark.parametrize("options", [{"copies": 1}, {"parity": (2, 1)}])
def test_copies_and_parity(fs, checkpoints, options):
    """The set's data are at more than one server, and what one of them has may go: the bytes of one part are changed."""
    state = {"matrix": torch.rand(1000, 1000)}
    dcp.save(state, storage_writer=HayateWriter(checkpoints, flush="never", **options), checkpoint_id="1")
    attempt = next(iter(fs.listdir(f"{checkpoints}/data")))
    with fs.open(f"{checkpoints}/data/{attempt}/r0/0.0", "rb+", 0) as part:
        part.pwrite(bytes([part.pread(1, 100_000)[0] ^ 1]), 100_000)
    back = {"matrix": torch.zeros(1000, 1000)}
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert torch.equal(back["matrix"], state["matrix"])


def test_a_smaller_checkpoint_is_not_taken(checkpoints):
    dcp.save({"matrix": torch.rand(100, 100)}, storage_writer=HayateWriter(checkpoints), checkpoint_id="1")
    with pytest.raises(dcp.api.CheckpointException, match="[Ss]ize"):
        dcp.load({"matrix": torch.zeros(100, 101)}, storage_reader=HayateReader(checkpoints))


def test_many_small_tensors_are_read_together(checkpoints):
    state = {f"t{number}": torch.full((10,), float(number)) for number in range(2000)}
    state["large"] = torch.rand(3_000_000)
    dcp.save(state, storage_writer=HayateWriter(checkpoints), checkpoint_id="1")
    back = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert same(state, back)


def as_program(words, environment, output, errors):
    """In a fork: what the interpreter does with a program."""
    os.dup2(output.fileno(), 1)
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


class Program:
    """A running program: lines of its output, and its end within 100 s."""

    def __init__(self, tmp_path, *words, forked=not LONG, **environment):
        self.errors = tmp_path / f"errors-{uuid.uuid4().hex}"
        if forked:
            output, into = FORKS.Pipe(duplex=False)
            self.process = FORKS.Process(target=as_program, args=(list(words), environment, into, self.errors))
            self.process.start()
            into.close()
            self.output = os.fdopen(os.dup(output.fileno()))
        else:
            with open(self.errors, "w") as errors:
                self.process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | environment)
            self.output = self.process.stdout
        self.watchdog = threading.Timer(100, self.process.kill)
        self.watchdog.daemon = True
        self.watchdog.start()

    def ended(self, code=0):
        """Waits until it has ended by itself, or been killed."""
        self.output.read()
        if isinstance(self.process, subprocess.Popen):
            found = self.process.wait()
        else:
            self.process.join()
            found = self.process.exitcode
        self.watchdog.cancel()
        self.output.close()
        assert found == code, f"exit code {found}: {self.errors.read_text()[-3000:]}"


RANKS = """
import os
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from hayate.dcp import HayateReader, HayateWriter

class FailingWriter(HayateWriter):
    # One rank has no space.
    def _item(self, *arguments):
        if sys.argv[1] == "fail" and dist.get_rank() == 1:
            raise OSError(28, "no space, says the test")
        return super()._item(*arguments)


# Torchrun says where ranks meet; forks are given a file.
dist.init_process_group("gloo", init_method=os.environ.get("MEETING", "env://"), rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
full = torch.arange(8 * 6, dtype=torch.float32).reshape(8, 6)
state = {"sharded": distribute_tensor(torch.zeros(8, 6) if sys.argv[1] == "load" else full, mesh, [Shard(int(sys.argv[3]))])}
if sys.argv[1] == "fail":
    try:
        dcp.save(state, storage_writer=FailingWriter(sys.argv[2]), checkpoint_id="6")
    except dcp.api.CheckpointException as error:  # On every rank.
        assert "no space" in str(error), error
    else:
        raise AssertionError("it was saved")
elif sys.argv[1] == "save":
    dcp.async_save(state, storage_writer=HayateWriter(sys.argv[2]), checkpoint_id="5").result()
else:
    dcp.load(state, storage_reader=HayateReader(sys.argv[2]))
    assert torch.equal(state["sharded"].full_tensor(), full)
dist.destroy_process_group()
"""


def run_ranks(tmp_path, count, *arguments):
    path = tmp_path / "ranks.py"
    path.write_text(RANKS)
    if LONG:
        programs = [Program(tmp_path, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", str(path), *arguments)]
    else:
        meeting = f"file://{tmp_path}/{uuid.uuid4().hex}"
        programs = [Program(tmp_path, str(path), *arguments, RANK=str(rank), WORLD_SIZE=str(count), MEETING=meeting) for rank in range(count)]
    try:
        for program in programs:
            program.ended()
    finally:  # Who waits for one that failed.
        for program in programs:
            program.process.kill()


def test_ranks_may_be_other_in_number(checkpoints, tmp_path):
    """Two ranks save a tensor by rows; three load it by columns, and one program the whole of it."""
    run_ranks(tmp_path, 2, "save", checkpoints, "0")
    run_ranks(tmp_path, 3, "load", checkpoints, "1")
    back = {"sharded": torch.zeros(8, 6)}
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert torch.equal(back["sharded"], torch.arange(48.0).reshape(8, 6))


def test_one_rank_of_two_fails(checkpoints, tmp_path):
    """All ranks hear of it, and the version before stays the newest."""
    run_ranks(tmp_path, 2, "save", checkpoints, "0")
    run_ranks(tmp_path, 2, "fail", checkpoints, "0")
    assert versions(checkpoints) == [5] and latest(checkpoints) == 5
    back = {"sharded": torch.zeros(8, 6)}
    dcp.load(back, storage_reader=HayateReader(checkpoints))
    assert torch.equal(back["sharded"], torch.arange(48.0).reshape(8, 6))


def train(tmp_path, checkpoints, steps, kill_at=None, **how):
    """Runs the example; kills it when it says that it saved so many. Answers its lines."""
    program = Program(tmp_path, str(EXAMPLE), "--set", checkpoints, "--steps", str(steps), "--every", "5", **how)
    lines, saved = [], 0
    for line in program.output:
        lines.append(line.strip())
        saved += line.startswith("saved")
        if kill_at is not None and saved == kill_at:
            os.kill(program.process.pid, signal.SIGKILL)
            break
    program.ended(0 if kill_at is None else -signal.SIGKILL)
    return lines


def test_the_example_is_killed_and_goes_on(place, tmp_path):
    """Started as users do when it is killed first, and when it comes to its end."""
    straight = train(tmp_path, f"{place}/straight", 100)[-1]
    assert straight.startswith("done: ")
    for kill_at in (1, 2, 4):
        train(tmp_path, f"{place}/killed", 100, kill_at, forked=not LONG and kill_at > 1)
        assert latest(f"{place}/killed") is not None
    lines = train(tmp_path, f"{place}/killed", 100, forked=False)
    assert lines[0].startswith("goes on from step ") and lines[-1] == straight
    assert len(versions(f"{place}/killed")) <= 4
