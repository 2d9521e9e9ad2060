"""Paths in the manner of pathlib."""

import fnmatch
import os
from pathlib import PurePosixPath


class Path:
    """A path in a file system of Hayate, with the methods of pathlib.Path. It is no os.PathLike: open() and os would look for it on the local
    file system.

    >>> Path("/results") / "run7"
    hayate.Path('/results/run7')
    """

    __slots__ = ("_fs", "_pure")

    def __init__(self, *parts, fs=None):
        first = next((part for part in parts if isinstance(part, Path)), None)
        self._fs = fs or (first._fs if first is not None else None)
        # Relative paths begin at the root: there is no other directory to begin at.
        pure = PurePosixPath("/", *(part._pure if isinstance(part, Path) else part for part in parts))
        # Two slashes at the beginning mean something else to POSIX, nothing here.
        self._pure = PurePosixPath("/", *pure.parts[1:])

    @property
    def fs(self):
        """The connection: the module's own if none was given."""
        if self._fs is None:
            import hayate

            return hayate.default()
        return self._fs

    def _other(self, pure):
        return Path(pure, fs=self._fs)

    # --- the words ---

    name = property(lambda self: self._pure.name)
    stem = property(lambda self: self._pure.stem)
    suffix = property(lambda self: self._pure.suffix)
    suffixes = property(lambda self: self._pure.suffixes)
    parts = property(lambda self: self._pure.parts)
    parent = property(lambda self: self._other(self._pure.parent))
    parents = property(lambda self: tuple(self._other(above) for above in self._pure.parents))

    def __truediv__(self, other):
        return self._other(self._pure / (other._pure if isinstance(other, Path) else other))

    def joinpath(self, *others):
        path = self
        for other in others:
            path = path / other
        return path

    def with_name(self, name):
        return self._other(self._pure.with_name(name))

    def with_suffix(self, suffix):
        return self._other(self._pure.with_suffix(suffix))

    def with_stem(self, stem):
        return self._other(self._pure.with_name(stem + self.suffix))

    def relative_to(self, other):
        """A pathlib.PurePosixPath."""
        return self._pure.relative_to(other._pure if isinstance(other, Path) else other)

    def match(self, pattern):
        return self._pure.match(pattern)

    def __str__(self):
        return str(self._pure)

    def as_posix(self):
        return str(self._pure)

    def as_uri(self):
        """As fsspec takes it."""
        return "hayate://" + str(self._pure)

    def __repr__(self):
        return f"hayate.Path({str(self._pure)!r})"

    def __eq__(self, other):
        return isinstance(other, Path) and self._pure == other._pure

    def __lt__(self, other):
        return self._pure < other._pure if isinstance(other, Path) else NotImplemented

    def __hash__(self):
        return hash(self._pure)

    def __reduce__(self):
        return _again, (str(self._pure), self._fs)

    # --- what is there ---

    def stat(self, *, follow_symlinks=True):
        return self.fs.stat(str(self), follow_symlinks=follow_symlinks)

    def lstat(self):
        return self.fs.lstat(str(self))

    def exists(self):
        return self.fs.exists(str(self))

    def is_file(self):
        return self.fs.isfile(str(self))

    def is_dir(self):
        return self.fs.isdir(str(self))

    def is_symlink(self):
        return self.fs.islink(str(self))

    def samefile(self, other):
        other = other if isinstance(other, Path) else Path(other, fs=self._fs)
        return self.stat().ino == other.stat().ino

    def iterdir(self):
        return (self / entry.name for entry in self.fs.scandir(str(self)))

    def walk(self):
        return ((self._other(here), below, others) for here, below, others in self.fs.walk(str(self)))

    def glob(self, pattern):
        """Paths below that match, component by component; `**` is any number of directories."""
        words = PurePosixPath(pattern).parts
        if not words or words[0] == "/":
            raise ValueError(f"unacceptable pattern: {pattern!r}")
        return _select(self, words)

    def rglob(self, pattern):
        return self.glob(os.path.join("**", pattern))

    def readlink(self):
        return PurePosixPath(self.fs.readlink(str(self)))

    # --- content ---

    def open(self, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        return self.fs.open(str(self), mode, buffering, encoding, errors, newline)

    def read_bytes(self):
        return self.fs.get(str(self))

    def read_text(self, encoding="utf-8", errors="strict"):
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, data):
        return self.fs.put(str(self), data)

    def write_text(self, text, encoding="utf-8", errors="strict"):
        return self.write_bytes(text.encode(encoding, errors))

    # --- changes ---

    def mkdir(self, mode=0o777, parents=False, exist_ok=False):
        try:
            (self.fs.makedirs if parents else self.fs.mkdir)(str(self), mode)
        except FileExistsError:
            if not exist_ok or not self.is_dir():
                raise

    def touch(self, mode=0o666, exist_ok=True):
        with self.fs.open(str(self), "ab" if exist_ok else "xb", 0, permissions=mode):
            pass
        self.fs.utime(str(self))

    def unlink(self, missing_ok=False):
        try:
            self.fs.remove(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self):
        self.fs.rmdir(str(self))

    def rename(self, target):
        target = target if isinstance(target, Path) else Path(target, fs=self._fs)
        self.fs.rename(str(self), str(target))
        return target

    replace = rename

    def symlink_to(self, target):
        self.fs.symlink(str(target), str(self))

    def hardlink_to(self, target):
        self.fs.link(str(target), str(self))

    def chmod(self, mode):
        self.fs.chmod(str(self), mode)


def _again(path, fs):
    return Path(path, fs=fs)


def _select(base, words):
    """Paths below `base` that match the words of a pattern; symbolic links to directories are not walked into by `**`."""
    word, rest = words[0], words[1:]
    if word == "**":
        yield from _select(base, rest) if rest else (base,)
        for entry in base.fs.scandir(str(base)):
            if entry.is_dir():
                yield from _select(base / entry.name, words)
        return
    if not base.is_dir():
        return
    for entry in base.fs.scandir(str(base)):
        if fnmatch.fnmatchcase(entry.name, word):
            found = base / entry.name
            yield from _select(found, rest) if rest else (found,)
