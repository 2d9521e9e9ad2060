"""Goal: paths behave as pathlib's. Method: the same calls on a local directory and on one in the cluster, answers compared as text."""

import os
import pathlib

import pytest

import hayate


@pytest.fixture(params=["local", "hayate"])
def base(request, fs, place, tmp_path):
    return tmp_path if request.param == "local" else hayate.Path(place, fs=fs)


def relative(base, paths):
    return sorted(str(path.relative_to(base)) for path in paths)


def test_a_tree(base):
    (base / "a/b").mkdir(parents=True)
    for name in ("a/one.txt", "a/b/two.txt", "a/b/three.dat"):
        (base / name).write_text(name)
    assert relative(base, (base / "a").iterdir()) == ["a/b", "a/one.txt"]
    assert relative(base, base.glob("*")) == ["a"]
    assert relative(base, base.glob("a/*.txt")) == ["a/one.txt"]
    assert relative(base, base.rglob("*.txt")) == ["a/b/two.txt", "a/one.txt"]
    assert relative(base, base.glob("**/b/*")) == ["a/b/three.dat", "a/b/two.txt"]
    assert relative(base, base.glob("none/*")) == []
    assert (base / "a/one.txt").read_text() == "a/one.txt"
    assert (base / "a/b").is_dir() and (base / "a/one.txt").is_file() and not (base / "none").exists()


def test_changes(base):
    path = base / "f"
    path.touch()
    with pytest.raises(FileExistsError):
        path.touch(exist_ok=False)
    path.write_bytes(b"12345")
    assert path.stat().st_size == 5
    with path.open("a") as file:
        file.write("6")
    moved = path.rename(base / "g")
    assert moved.read_bytes() == b"123456" and not path.exists()
    path.symlink_to("g")
    # Path.readlink is of Python 3.9.
    said = os.readlink(path) if isinstance(path, pathlib.Path) else str(path.readlink())
    assert path.is_symlink() and said == "g" and path.samefile(moved)
    (base / "h").hardlink_to(moved)
    assert moved.stat().st_nlink == 2
    moved.chmod(0o640)
    assert moved.stat().st_mode & 0o7777 == 0o640
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.unlink()
    (base / "d").mkdir()
    (base / "d").mkdir(exist_ok=True)
    with pytest.raises(FileExistsError):
        (base / "d").mkdir()
    with pytest.raises(FileExistsError):
        moved.mkdir(exist_ok=True)
    (base / "d").rmdir()


@pytest.mark.parametrize("text", ["/", "/a", "/a/b.tar.gz", "/a/./b", "//a//b/"])
def test_words_are_pathlibs(text):
    ours, theirs = hayate.Path(text), pathlib.PurePosixPath("/", text.replace("//", "/"))
    for word in ("name", "stem", "suffix", "suffixes", "parts"):
        assert getattr(ours, word) == getattr(theirs, word)
    assert str(ours) == str(theirs) and str(ours.parent) == str(theirs.parent)
    assert [str(above) for above in ours.parents] == [str(above) for above in theirs.parents]
    assert str(ours / "x" / "y.z") == str(theirs / "x" / "y.z")
    if ours.name:
        assert str(ours.with_suffix(".new")) == str(theirs.with_suffix(".new"))
        assert str(ours.with_name("n")) == str(theirs.with_name("n"))
    assert ours == hayate.Path(text) and hash(ours) == hash(hayate.Path(text)) and ours != str(ours)
    assert sorted([hayate.Path("/b"), hayate.Path("/a")])[0] == hayate.Path("/a")
    assert ours.as_uri() == "hayate://" + str(theirs)


def test_they_are_not_taken_for_local_paths(fs, place):
    with pytest.raises(TypeError):
        open(hayate.Path(place, fs=fs) / "f", "w")
