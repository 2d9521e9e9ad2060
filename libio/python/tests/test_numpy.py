"""Goal: arrays go to the cluster and back without a copy in between. Method: numpy's own functions, and raw files with arrays as buffers."""

import tracemalloc

import numpy as np
import pytest


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
