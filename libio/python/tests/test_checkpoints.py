"""Goal: checkpoints from Python are those of the library: all-or-nothing, one verdict for all ranks, any number of readers, the errors that docs/clients.md lists. Method: ranks as
threads and as processes, some of which give up, fork or are killed; damage; the list of what there is."""

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

import hayate
from hayate import Checkpoints, State


@pytest.fixture
def checkpoints(fs, place):
    return Checkpoints(fs, f"{place}/sets", group="one")


def test_a_version_of_one_rank(checkpoints):
    array = bytearray(os.urandom(3 << 20))
    kept = bytes(array)
    assert checkpoints.latest("heat") is None
    with checkpoints.begin("heat", 10) as writer:
        writer.write("field", array)
        array[:] = bytes(len(array))  # The buffer may be used again at once.
        writer.write("step", b"10")
        writer.write("step", b"!", 5)
        assert checkpoints.latest("heat") is None
    assert checkpoints.latest("heat") == 10
    stored = checkpoints.open("heat", 10)
    assert stored.regions() == {"field": 3 << 20, "step": 6} and stored.size("step") == 6
    assert stored.read("field") == kept and stored.read("step") == b"10\0\0\0!"
    room = bytearray(100)
    assert stored.read_into("field", room, 50) == 100 and room == kept[50:150]
    assert stored.read_into("step", room, 4) == 2
    with pytest.raises(FileNotFoundError):
        stored.size("none")
    info = checkpoints.list("heat")
    assert [(each.version, each.nranks, each.pinned) for each in info] == [(10, 1, False)] and info[0].bytes >= 3 << 20
    assert checkpoints.state("heat", 10) >= State.COMMITTED


def test_saving_and_restoring_by_name(checkpoints):
    checkpoints.save("s", 1, {"a": b"12345", "b": bytearray(1000)})
    a, b = bytearray(5), bytearray(b"x" * 1000)
    checkpoints.restore("s", 1, {"a": a, "b": b})
    assert a == b"12345" and b == bytes(1000)
    with pytest.raises(ValueError, match="5 bytes"):
        checkpoints.restore("s", 1, {"a": bytearray(6)})


def test_an_exception_gives_up(checkpoints):
    checkpoints.save("s", 1, {"a": b"old"})
    with pytest.raises(RuntimeError), checkpoints.begin("s", 2) as writer:
        writer.write("a", b"new")
        raise RuntimeError
    assert checkpoints.latest("s") == 1 and checkpoints.state("s", 2) == State.ABORTED
    with pytest.raises(ValueError, match="over"):
        writer.write("a", b"x")
    checkpoints.save("s", 2, {"a": b"again"})
    assert checkpoints.open("s", 2).read("a") == b"again"
    with pytest.raises(FileExistsError):
        checkpoints.begin("s", 2)


def commit(checkpoints, rank, nranks, ok, answers, timeout=30):
    try:
        writer = checkpoints.begin("group", 1, rank, nranks, timeout=timeout)
        writer.write(f"part{rank}", bytes([rank]) * 100_000)
        writer.write("shared", bytes([rank]) * 10, rank * 10)
        writer.commit(ok)
        answers[rank] = None
    except OSError as error:
        answers[rank] = error.errno


@pytest.mark.parametrize("no", [None, 2])
def test_all_ranks_get_the_same_verdict(checkpoints, no):
    answers = [0] * 4
    threads = [threading.Thread(target=commit, args=(checkpoints, rank, 4, rank != no, answers)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if no is None:
        assert answers == [None] * 4
        assert checkpoints.open("group", 1).read("shared") == b"".join(bytes([rank]) * 10 for rank in range(4))
    else:
        assert all(answers[rank] == errno.ECANCELED for rank in range(4) if rank != no), answers
        assert checkpoints.latest("group") is None


def test_a_missing_rank_is_not_waited_for_for_ever(checkpoints):
    answers, began = [0] * 2, time.monotonic()
    commit(checkpoints, 0, 2, True, answers, timeout=0.5)
    assert answers[0] == errno.ECANCELED and time.monotonic() - began < 20
    assert checkpoints.latest("group") is None


def rank_of_a_process(checkpoints, rank, nranks, die):
    writer = checkpoints.begin("processes", 7, rank, nranks, timeout=3)
    writer.write(f"part{rank}", os.urandom(1 << 20))
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    writer.commit()


@pytest.mark.parametrize("die", [False, True])
def test_ranks_are_processes(checkpoints, die):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_of_a_process, args=(checkpoints, rank, 3, die and rank == 1)) for rank in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    codes = [process.exitcode for process in ranks]
    if die:
        assert codes[1] == -signal.SIGKILL and codes[0] and codes[2] and checkpoints.latest("processes") is None
    else:
        assert codes == [0, 0, 0] and len(checkpoints.open("processes", 7).regions()) == 3


def test_sealing_does_not_wait(checkpoints):
    one, two = (checkpoints.begin("s", 1, rank, 2) for rank in range(2))
    one.write("a", b"1")
    one.seal()
    assert one.test() is False and checkpoints.latest("s") is None
    two.write("b", b"2")
    two.seal()
    two.join(30)
    assert one.test() is True and checkpoints.latest("s") == 1


def fails(number):
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


def test_each_failure_has_its_number(fs, place, checkpoints):
    """On the ranks that the table in docs/clients.md says; the version before stays."""
    checkpoints.save("s", 1, {"a": b"old"})
    # A rank that says another number; the others hear that it was given up.
    one = checkpoints.begin("s", 2, 0, 2)
    with fails(errno.EINVAL):
        checkpoints.begin("s", 2, 1, 3)
    with fails(errno.ECANCELED):
        one.commit()
    # All ranks of the group that another one took over from.
    one, two = (checkpoints.begin("s", 2, rank, 2) for rank in range(2))
    taken = Checkpoints(fs, checkpoints.root, group="other").begin("s", 2, 0, 1)
    for writer in (one, two):
        with fails(errno.EBUSY):
            writer.commit()
    taken.abort()
    with fails(errno.EINVAL):
        checkpoints.begin("s", 3, 2, 2)
    with fails(errno.EINVAL):
        checkpoints.begin("s" * 201, 3)
    with fails(errno.EINVAL):
        checkpoints.begin("s", 3, copies=77)
    with checkpoints.begin("s", 3) as writer:
        for name in ("", "n" * 256):
            with fails(errno.EINVAL):
                writer.write(name, b"x")
        writer.write("n" * 255, b"x")
    with fails(errno.EEXIST):
        checkpoints.begin("s", 3)
    checkpoints.finish("s", 3, ok=False)
    with fails(errno.ENOTRECOVERABLE):
        checkpoints.wait("s", 3)
    with fails(errno.ENOENT):
        checkpoints.finish("s", 99, ok=True)
    assert checkpoints.latest("s") == 1 and checkpoints.open("s", 1).read("a") == b"old"


def test_damage_is_found_by_who_reads_it(fs, checkpoints):
    checkpoints.save("s", 1, {"a": b"good"}, flush="never")
    checkpoints.save("s", 2, {"a": os.urandom(100_000), "b": b"good"}, flush="never")
    attempts = f"{checkpoints.root}/s/data"
    attempt = next(name for name in fs.listdir(attempts) if int(name.split(".")[0]) == 2)
    with fs.open(f"{attempts}/{attempt}/r0/0", "rb+", 0) as file:
        file.pwrite(bytes([file.pread(1, 50_000)[0] ^ 1]), 50_000)
    stored = checkpoints.open("s", 2)
    assert stored.read("b") == b"good"
    with fails(errno.EIO):
        stored.read("a")
    checkpoints.finish("s", 2, ok=False)
    assert checkpoints.latest("s") == 1


FORKS = """
import errno, os, sys
import hayate

checkpoints = hayate.Checkpoints(root=sys.argv[1], group="parent")

def ended(pid):
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])

with checkpoints.begin("s", 1, 0, 1) as writer:
    writer.write("a", b"parent")
    if (child := os.fork()) == 0:
        sys.exit(7)  # Through the context.
    assert ended(child) == 7
    if (child := os.fork()) == 0:
        try:
            writer.write("a", b"child!")
        except OSError as error:
            assert error.errno == errno.ENOTCONN, error
            checkpoints.save("childs", 1, {"a": b"child"})
            raise RuntimeError("passes")
    assert ended(child) == 1  # Who has an exception that nobody takes.
    if (child := os.fork()) == 0:
        del writer
        os._exit(0)
    assert ended(child) == 0
sealed = checkpoints.begin("s", 2, 0, 2)
sealed.seal()
if (child := os.fork()) == 0:
    sys.exit(0)
assert ended(child) == 0
with checkpoints.begin("s", 2, 1, 2) as writer:
    writer.write("a", b"both")
sealed.join(30)
assert checkpoints.latest("s") == 2 and checkpoints.open("s", 1).read("a") == b"parent"
assert checkpoints.open("childs", 1).read("a") == b"child"
"""


def test_a_forked_child_leaves_its_parents_version(place):
    program = [sys.executable, "-c", FORKS, f"{place}/sets"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeError: passes") == 1 and "ignored" not in done.stderr, done.stderr


def test_keeping_house(checkpoints):
    for version in range(5):
        checkpoints.save("s", version, {"a": b"%d" % version})
    checkpoints.finish("s", 4, ok=False)
    assert checkpoints.latest("s") == 3 and checkpoints.latest("s", below=3) == 2 and checkpoints.latest("s", below=0) is None
    assert checkpoints.state("s", 4) == State.FAILED
    checkpoints.pin("s", 0)
    checkpoints.prune("s", keep=1)
    assert {0, 3} <= set(checkpoints.versions("s")) and 1 not in checkpoints.versions("s")
    assert next(info for info in checkpoints.list("s") if info.version == 0).pinned
    with pytest.raises(FileNotFoundError):
        checkpoints.state("s", 99)
    with pytest.raises(OSError):
        checkpoints.begin("bad/name", 1)


def test_a_number_is_free_once_its_version_is_removed(checkpoints):
    for _ in range(2):
        with checkpoints.begin("remove", 3, 0, 1) as writer:
            writer.write("x", b"x")
        checkpoints.finish("remove", 3, False)
        with pytest.raises(FileExistsError):
            checkpoints.begin("remove", 3, 0, 1)
        checkpoints.remove("remove", 3)
    assert checkpoints.list("remove") == []


def test_unchanged_blocks_and_zeros_take_no_room(fs, checkpoints):
    """Sizes of what each version stored: all of it, one block of it, hardly anything."""
    data = bytearray(os.urandom(4 << 20))
    for version, compress in ((1, 0), (2, 0), (3, 1)):
        checkpoints.save("packed", version, {"a": data, "zeros": bytes(4 << 20)} if compress else {"a": data}, incremental=True, compress=compress)
        assert checkpoints.open("packed", version).read("a") == data
        data[5] ^= 1
    sizes = {}
    for attempt in fs.listdir(f"{checkpoints.root}/packed/data"):
        ranks = f"{checkpoints.root}/packed/data/{attempt}/r0"
        sizes[int(attempt.split(".")[0])] = sum(fs.stat(f"{ranks}/{name}").st_size for name in fs.listdir(ranks) if name.isdigit())
    assert sizes[1] == 4 << 20 and sizes[2] == 1 << 20 and sizes[3] < (1 << 20) + 10_000


def test_servers_make_it_durable(fs, checkpoints):
    checkpoints.save("s", 1, {"a": os.urandom(100_000)}, flush="close")
    try:
        checkpoints.wait("s", 1, State.DURABLE, timeout=60)
    except OSError as error:
        assert error.errno == errno.EINVAL, error
        pytest.skip("this cluster has no tier 2")
    assert checkpoints.state("s", 1) == State.DURABLE
    drain = checkpoints.drain_time(1 << 30)
    assert drain is None or drain > 0
    with checkpoints.begin("s", 2), pytest.raises(TimeoutError):
        checkpoints.wait("s", 2, State.COMMITTED, timeout=0.1)


def test_they_are_pickled(checkpoints):
    again = pickle.loads(pickle.dumps(checkpoints))
    again.save("s", 1, {"a": b"1"})
    assert checkpoints.latest("s") == 1


def test_the_jobs_end(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert hayate.time_left() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 5))
    assert 0 <= hayate.time_left() <= 5
    assert hayate.advise(mtbf=3600, cost=2, since=60, left=hayate.time_left(), drain=10).stop


def test_advice():
    due = hayate.advise(mtbf=3600, cost=2, since=600)
    early = hayate.advise(mtbf=3600, cost=2, since=1)
    assert due.checkpoint and not early.checkpoint and 50 < early.next_s < 600
    assert hayate.advise(mtbf=3600, cost=2, since=60, left=5, drain=10).stop
    assert not hayate.advise(mtbf=3600, cost=2, since=60, left=5000, drain=10).stop
    with pytest.raises(OSError):
        hayate.advise(mtbf=-1, cost=2, since=60)
