"""Goal: connections survive forks and pickling. Method: processes of multiprocessing, forked and spawned."""

import errno
import multiprocessing
import os
import pickle

import pytest

import hayate


def put(fs, path):
    return fs.put(path, str(os.getpid()).encode())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_uses_a_connection(fs, place, method):
    with multiprocessing.get_context(method).Pool(3) as pool:
        paths = [f"{place}/{number}" for number in range(30)]
        pool.starmap(put, [(fs, path) for path in paths])
    assert all(int(fs.get(path)) != os.getpid() for path in paths)
    assert len(fs.listdir(place)) == 30


def test_a_child_is_refused_its_parents_file(fs, place):
    file = fs.open(f"{place}/f", "wb", 0)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            file.write(b"child")
        except OSError as error:
            os.write(writing, errno.errorcode[error.errno].encode())
        fs.put(f"{place}/child", b"by a connection of its own")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reading, 100) == b"ENOTCONN"
    file.write(b"parent")
    file.close()
    assert fs.get(f"{place}/f") == b"parent" and fs.get(f"{place}/child")


def test_what_is_pickled_is_the_same(fs, place):
    path = hayate.Path(place, fs=fs) / "f"
    again = pickle.loads(pickle.dumps(path))
    again.write_text("text")
    assert path.read_text() == "text" and again == path


def test_a_closed_connection_connects_again(place):
    fs = hayate.connect()
    fs.close()
    fs.close()
    assert fs.isdir(place)
    fs.close()
