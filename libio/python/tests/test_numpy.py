"""Goal: arrays go to the cluster and back without a copy in between. Method: numpy's own functions, raw files and checkpoints with arrays as buffers, what Python allocates, and the most memory that a
process of its own had."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from hayate import Checkpoints


def test_save_and_load(fs, place):
    array = np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000)
    with fs.open(f"{place}/a.npy", "wb") as file:
        np.save(file, array)
    with fs.open(f"{place}/a.npy", "rb") as file:
        assert np.array_equal(np.load(file), array)
    with fs.open(f"{place}/a.npz", "wb") as file:
        np.savez_compressed(file, array=array, other=array[::7])
    with fs.open(f"{place}/a.npz", "rb") as file, np.load(file) as stored:
        assert np.array_equal(stored["other"], array[::7])


def test_arrays_are_buffers(fs, place):
    array = np.random.default_rng(1).integers(0, 1 << 60, 4 << 20)
    with fs.open(f"{place}/raw", "wb+", 0) as file:
        back = np.zeros_like(array)
        tracemalloc.start()
        assert file.pwrite(array, 0) == array.nbytes
        assert file.pread_into(back, 0) == array.nbytes
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.array_equal(array, back)
        assert peak < array.nbytes / 100, "the bytes were copied"
        assert file.pread_into(back[10:20], 8) == 80 and np.array_equal(back[10:20], array[1:11])
        with pytest.raises((BufferError, ValueError)):
            file.pwrite(array[::2], 0)
        file.pwrite(array.reshape(-1, 4)[5], 0)
        back.flags.writeable = False
        with pytest.raises((BufferError, ValueError)):
            file.pread_into(back, 0)


PEAK = """
import sys
import numpy as np
import hayate

MIB = 1 << 20

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))

checkpoints = hayate.Checkpoints(hayate.connect(memory=32 * MIB), sys.argv[1])
small = np.ones(MIB, dtype=np.uint8)
checkpoints.save("warm", 1, {"field": small})      # What the library takes for itself, however much is written.
checkpoints.open("warm", 1).read_into("field", small)
field, back = np.ones(32 * MIB), np.ones(32 * MIB)  # 256 MiB each
before = peak()
with checkpoints.begin("set", 1) as writer:
    assert writer.write("field", field) == field.nbytes
assert checkpoints.open("set", 1).read_into("field", back) == back.nbytes
assert np.array_equal(field[::4097], back[::4097])
print((peak() - before) // MIB)
"""


def test_checkpoints_of_arrays_are_not_copied(place):
    done = subprocess.run([sys.executable, "-c", PEAK, f"{place}/sets"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # One copy would be 256; what may be is buffers.
    assert int(done.stdout) < 128, done.stdout


def test_checkpoints_take_only_whole_arrays(fs, place):
    checkpoints = Checkpoints(fs, f"{place}/sets")
    array = np.arange(1000, dtype=np.int32).reshape(10, 100)
    with checkpoints.begin("set", 1) as writer:
        for bad in (array[::2], array[:, :50], array.T):
            with pytest.raises((BufferError, ValueError)):
                writer.write("field", bad)
        writer.write("field", array)
        writer.write("field", array[3], array.nbytes)  # A row is contiguous.
    stored, back = checkpoints.open("set", 1), np.zeros_like(array)
    for bad in (back[::2], back[:, :50], back.T):
        with pytest.raises((BufferError, ValueError)):
            stored.read_into("field", bad)
    assert stored.read_into("field", back) == array.nbytes and np.array_equal(back, array)
    assert stored.read_into("field", back[0], array.nbytes) == 400 and np.array_equal(back[0], array[3])
    back.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        stored.read_into("field", back)
