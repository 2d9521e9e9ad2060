"""Goal: `hayate://` is a file system of fsspec. Method: fsspec's own abstract test suite; and what is particular to this one."""

import fsspec
import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from hayate.spec import HayateFileSystem


class Fixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self):
        return fsspec.filesystem("hayate", auto_mkdir=True)

    @pytest.fixture
    def fs_path(self, place):
        return place


class TestCopy(AbstractCopyTests, Fixtures):
    pass


class TestGet(AbstractGetTests, Fixtures):
    pass


class TestPut(AbstractPutTests, Fixtures):
    pass


class TestOpen(AbstractOpenTests, Fixtures):
    pass


class TestPipe(AbstractPipeTests, Fixtures):
    pass


@pytest.fixture
def spec():
    return fsspec.filesystem("hayate")


def test_the_entry_point_finds_it(spec, place):
    assert isinstance(spec, HayateFileSystem)
    with fsspec.open(f"hayate://{place}/a.txt.gz", "wt", compression="infer") as file:
        file.write("packed")
    with fsspec.open(f"hayate://{place}/a.txt.gz", "rt", compression="infer") as file:
        assert file.read() == "packed"
    found, path = fsspec.core.url_to_fs(f"hayate://{place}")
    assert path == place and found is spec and spec.unstrip_protocol(place) == f"hayate://{place}"


def test_parts_of_files(spec, place):
    spec.pipe_file(f"{place}/f", b"0123456789")
    assert spec.cat_file(f"{place}/f", 2, 5) == b"234"
    assert spec.cat_file(f"{place}/f", -3) == b"789"
    assert spec.cat_file(f"{place}/f", 1, -1) == b"12345678"
    assert spec.cat_file(f"{place}/f", end=2) == b"01"
    assert spec.cat_file(f"{place}/f", 20, 30) == b""
    assert spec.cat_ranges([f"{place}/f"] * 2, [0, 4], [1, 6]) == [b"0", b"45"]
    with pytest.raises(FileExistsError):
        spec.pipe_file(f"{place}/f", b"x", mode="create")


def test_moving_and_removing(spec, place):
    spec.makedirs(f"{place}/d/e")
    spec.makedirs(f"{place}/d/e", exist_ok=True)
    with pytest.raises(FileExistsError):
        spec.makedirs(f"{place}/d/e")
    spec.pipe({f"{place}/d/{name}": name.encode() for name in "abc"})
    number = spec.info(f"{place}/d/a")["ino"]
    spec.mv(f"{place}/d", f"{place}/moved")
    assert spec.info(f"{place}/moved/a")["ino"] == number, "it was copied, not renamed"
    spec.mv(f"{place}/moved/a", f"{place}/moved/e")
    assert spec.find(place) == [f"{place}/moved/b", f"{place}/moved/c", f"{place}/moved/e/a"]
    assert spec.glob(f"{place}/*/[bc]") == [f"{place}/moved/b", f"{place}/moved/c"]
    with pytest.raises(IsADirectoryError):
        spec.rm(f"{place}/moved")
    spec.symlink(f"{place}/moved", f"{place}/link")
    assert spec.info(f"{place}/link")["type"] == "directory" and spec.info(f"{place}/link")["islink"]
    spec.rm(f"{place}/link", recursive=True)
    assert spec.exists(f"{place}/moved/b"), "a link was followed"
    spec.rm(f"{place}/mov*", recursive=True)
    assert spec.ls(place) == []


def test_a_transaction_is_all_or_nothing_for_each_file(spec, place):
    spec.pipe_file(f"{place}/f", b"old")
    with spec.transaction:
        with spec.open(f"{place}/f", "wb") as file:
            file.write(b"new")
        assert spec.cat_file(f"{place}/f") == b"old"
    assert spec.cat_file(f"{place}/f") == b"new"
    with pytest.raises(RuntimeError), spec.transaction:
        with spec.open(f"{place}/f", "wb") as file:
            file.write(b"never")
        raise RuntimeError
    assert spec.cat_file(f"{place}/f") == b"new" and len(spec.ls(place)) == 1


def test_times_and_space(spec, place):
    spec.touch(f"{place}/f")
    assert (spec.modified(f"{place}/f") - spec.created(f"{place}/f")).total_seconds() < 60
    total, free = spec.disk_usage()
    assert total > free > 0
    assert spec.du(place) == 0 and spec.checksum(f"{place}/f") == spec.checksum(f"{place}/f")
