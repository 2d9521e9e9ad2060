"""Goal: HDF5 files are checkpoints: a region that HDF5 writes by its path, in the mount, is committed, checked, and read again, by HDF5 and by numpy; and one that is damaged is not. Method: h5py on
the path that route() gives, below the mount of HAYATE_MOUNT; two ranks, a file each."""

import errno
import os
from pathlib import Path

import pytest

h5py = pytest.importorskip("h5py")
np = pytest.importorskip("numpy")

from hayate import Checkpoints  # noqa: E402

MOUNT = os.environ.get("HAYATE_MOUNT")
pytestmark = pytest.mark.skipif(not MOUNT, reason="no HAYATE_MOUNT: this place has no FUSE")


@pytest.fixture
def checkpoints(fs, place):
    return Checkpoints(fs, f"{place}/sets", group="hdf5", mount=MOUNT)


def field(rank):
    return np.arange(200 * 300, dtype=np.float64).reshape(200, 300) * (rank + 1)


def test_a_region_that_hdf5_writes(checkpoints, tmp_path):
    writers = [checkpoints.begin("set", 1, rank, 2) for rank in range(2)]
    for rank, writer in enumerate(writers):
        path = writer.route(f"file.{rank}")
        assert path.startswith(MOUNT)
        with h5py.File(path, "w") as file:
            group = file.create_group("step")
            group.attrs["rank"] = rank
            group.create_dataset("field", data=field(rank), chunks=(50, 300), compression="gzip")
            group["field"][0] = -1.0  # It is read and written again.
        writer.seal()
    writers[0].join(60)
    version = checkpoints.open("set", 1)
    assert sorted(version.regions()) == ["file.0", "file.1"]
    for rank in range(2):
        copy = tmp_path / f"{rank}.h5"
        copy.write_bytes(version.read(f"file.{rank}"))
        expected = field(rank)
        expected[0] = -1.0
        with h5py.File(copy, "r") as file:
            assert file["step"].attrs["rank"] == rank and np.array_equal(file["step/field"], expected)


def test_a_damaged_one_is_not_read(checkpoints):
    """A byte changes in the file that HDF5 wrote, after the commit: no reader gets it, and the version before is offered when that was told."""
    for version in (1, 2):
        with checkpoints.begin("set", version, flush="never") as writer:
            path = writer.route("file")
            with h5py.File(path, "w") as file:
                file.create_dataset("field", data=field(version))
    with open(path, "rb+") as stored:
        stored.seek(200_000)
        byte = stored.read(1)[0]
        stored.seek(200_000)
        stored.write(bytes([byte ^ 1]))
    with pytest.raises(OSError, match="damaged") as failure:
        checkpoints.open("set", 2).read("file")
    assert failure.value.errno == errno.EIO
    checkpoints.finish("set", 2, ok=False)
    assert checkpoints.latest("set") == 1 and len(checkpoints.open("set", 1).read("file")) > field(1).nbytes


def test_hdf5_on_the_mount_itself(place):
    """As any program does it, with a file that is opened again to be appended to."""
    path = Path(MOUNT) / place.lstrip("/") / "plain.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("series", data=field(0)[:10], maxshape=(None, 300), chunks=(10, 300))
    for part in range(1, 4):
        with h5py.File(path, "a") as file:
            series = file["series"]
            series.resize(10 * (part + 1), axis=0)
            series[10 * part:] = field(0)[10 * part:10 * (part + 1)]
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["series"], field(0)[:40])
