"""A connection to a cluster, and what can be done with paths."""

import ctypes
import os
import posixpath
import stat as modes
import threading
import weakref

from . import files
from ._buffers import pinned
from ._library import EntryRecord, OptionsRecord, SpaceRecord, StatRecord, byref, failure, lib

_UNCHANGED_ID = 0xFFFFFFFF
_UNCHANGED_TIME, _NOW = -(2**63), 2**63 - 1
#: Bytes of a symbolic link's target at most.
_LINK_BYTES = 4096


class Stat:
    """Attributes. Times in nanoseconds end in `_ns`; the names of os.stat_result work, too."""

    __slots__ = tuple(name for name, _ in StatRecord._fields_)

    def __init__(self, record):
        for name in self.__slots__:
            setattr(self, name, getattr(record, name))

    st_ino = property(lambda self: self.ino)
    st_size = property(lambda self: self.size)
    st_mode = property(lambda self: self.mode)
    st_nlink = property(lambda self: self.nlink)
    st_uid = property(lambda self: self.uid)
    st_gid = property(lambda self: self.gid)
    st_rdev = property(lambda self: self.rdev)
    st_blksize = property(lambda self: self.chunk_bytes)
    st_atime = property(lambda self: self.atime_ns / 1e9)
    st_mtime = property(lambda self: self.mtime_ns / 1e9)
    st_ctime = property(lambda self: self.ctime_ns / 1e9)
    st_atime_ns = property(lambda self: self.atime_ns)
    st_mtime_ns = property(lambda self: self.mtime_ns)
    st_ctime_ns = property(lambda self: self.ctime_ns)

    def is_dir(self):
        return modes.S_ISDIR(self.mode)

    def is_file(self):
        return modes.S_ISREG(self.mode)

    def is_symlink(self):
        return modes.S_ISLNK(self.mode)

    def __repr__(self):
        return f"<hayate.Stat ino={self.ino:#x} mode={self.mode:#o} size={self.size}>"


class Entry:
    """An entry of a directory, as os.DirEntry; `stat()` is of the entry itself, without following a symbolic link."""

    __slots__ = ("_kind", "_stat", "ino", "name", "path")

    def __init__(self, directory, record):
        self.name = os.fsdecode(record.name)
        self.path = posixpath.join(directory, self.name)
        self.ino = record.ino
        self._kind = record.kind
        self._stat = Stat(record.stat) if record.has_stat else None

    def stat(self):
        """Attributes, if they were asked for; None if the entry vanished meanwhile."""
        return self._stat

    def is_dir(self):
        return self._kind == modes.S_IFDIR

    def is_file(self):
        return self._kind == modes.S_IFREG

    def is_symlink(self):
        return self._kind == modes.S_IFLNK

    def __repr__(self):
        return f"<hayate.Entry {self.name!r}>"


class Space:
    """Space of all servers together, in bytes."""

    __slots__ = ("free_bytes", "inodes", "total_bytes")

    def __init__(self, record):
        self.total_bytes, self.free_bytes, self.inodes = record.total_bytes, record.free_bytes, record.inodes


class FileSystem:
    """A connection to a cluster. Any thread may use it.

    `cluster` is the cluster's file; without it that of HAYATE_CLUSTER, or the user's usual one. `timeout` is how many seconds a call tries again
    while a server is away (60), `memory` how many bytes buffers, caches and open files may have (256 MiB), `trust` how many seconds names
    and attributes are trusted (1; 0 asks every time).

    A process that came from a fork connects by itself when it first uses it; files that its parent opened are refused there (ENOTCONN). It can be
    pickled: what comes out connects when it is used.
    """

    def __init__(self, cluster=None, *, timeout=None, memory=None, trust=None):
        self._made_of = (None if cluster is None else os.fspath(cluster), timeout, memory, trust)
        self._lock = threading.Lock()
        self._pid = self._number = None
        _all.add(self)
        self.number  # noqa: B018 - connects, so that what is wrong is said here.

    @property
    def number(self):
        """The connection's number in libhayate, in this process."""
        if self._pid == os.getpid():
            return self._number
        with self._lock:
            if self._pid != os.getpid():
                self._number = self._connect()
                self._pid = os.getpid()
        return self._number

    def _connect(self):
        cluster, timeout, memory, trust = self._made_of
        options = OptionsRecord()
        options.size = ctypes.sizeof(OptionsRecord)
        options.memory_bytes = memory or 0
        options.timeout_ms = 0 if timeout is None else max(1, int(timeout * 1000))
        options.trust_ms = 0 if trust is None else 0xFFFFFFFF if trust == 0 else max(1, int(trust * 1000))
        return lib.hayate_connect_with(None if cluster is None else os.fsencode(cluster), byref(options))

    def close(self):
        """Ends the connection: its files are closed, and what they wrote is published. Using it again connects again."""
        with self._lock:
            pid, self._pid = self._pid, None
            if pid == os.getpid():
                lib.hayate_disconnect(self._number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):
        return _again, self._made_of

    def __repr__(self):
        return f"<hayate.FileSystem {self._made_of[0] or 'of the environment'}>"

    # --- files ---

    def open(
        self, path, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *, permissions=0o666, layout=None, expected_bytes=0
    ):
        """Opens a file, as the built-in open(). The others are of a new file: its permissions, from which the umask is taken; its layout, if not its
        directory's ("striped", "local" or "writer", and maybe a chunk size, as in "local,chunk=4M"); and how large it will become, which chooses
        the size of its chunks if the layout does not.
        """
        return files.opened(self, os.fspath(path), mode, buffering, encoding, errors, newline, permissions, layout, expected_bytes)

    def get(self, path):
        """All of a file, as bytes. One message for a small one."""
        path = os.fsencode(path)
        size = self.stat(path).size
        while True:
            room = bytearray(size)
            with pinned(room, writable=True) as (address, length):
                got = _or_errno(lib.hayate_get, self.number, path, address, length)
            if got is not None:
                return bytes(memoryview(room)[:got])
            size = max(2 * size, self.stat(path).size)  # It grew meanwhile.

    def put(self, path, data, *, permissions=0o666):
        """Makes a file with this content, or replaces the content of one that is there. One message for a small one."""
        with pinned(data) as (address, size):
            return lib.hayate_put(self.number, os.fsencode(path), address, size, permissions)

    def copy(self, source, target):
        """Copies a file's content to another, made or replaced; the bytes go from server to server."""
        with files.RawFile(self, os.fspath(source), os.O_RDONLY) as read:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with files.RawFile(self, os.fspath(target), flags, modes.S_IMODE(read.stat().mode)) as write:
                done = 0
                while True:
                    copied = read.copy_to(write, 2**62, done, done)
                    if copied == 0:
                        return done
                    done += copied

    def truncate(self, path, size):
        """Cuts or extends a file."""
        lib.hayate_truncate(self.number, os.fsencode(path), size)

    # --- attributes ---

    def stat(self, path, *, follow_symlinks=True):
        """Attributes of what the path leads to."""
        record = StatRecord()
        look = lib.hayate_stat if follow_symlinks else lib.hayate_lstat
        look(self.number, os.fsencode(path), byref(record))
        return Stat(record)

    def lstat(self, path):
        """Attributes of the path's last name itself."""
        return self.stat(path, follow_symlinks=False)

    def _is(self, path, what):
        try:
            return what(self.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def exists(self, path):
        """Whether the path leads to something."""
        return self._is(path, lambda _: True)

    def isfile(self, path):
        """Whether it leads to a regular file."""
        return self._is(path, Stat.is_file)

    def isdir(self, path):
        """Whether it leads to a directory."""
        return self._is(path, Stat.is_dir)

    def islink(self, path):
        """Whether it is a symbolic link."""
        try:
            return self.lstat(path).is_symlink()
        except (FileNotFoundError, NotADirectoryError):
            return False

    def chmod(self, path, mode):
        """Sets the permission bits."""
        lib.hayate_chmod(self.number, os.fsencode(path), mode)

    def chown(self, path, uid=-1, gid=-1):
        """Sets owner and group; -1 leaves one as it is."""
        lib.hayate_chown(self.number, os.fsencode(path), uid & _UNCHANGED_ID, gid & _UNCHANGED_ID)

    def utime(self, path, *, atime_ns=None, mtime_ns=None):
        """Sets times, those that are given; without any both are now."""
        nothing = _NOW if atime_ns is None and mtime_ns is None else _UNCHANGED_TIME
        given = [nothing if time is None else time for time in (atime_ns, mtime_ns)]
        lib.hayate_utime(self.number, os.fsencode(path), *given)

    def getxattr(self, path, name):
        """Value of an extended attribute, as bytes."""
        return self._sized(lib.hayate_getxattr, os.fsencode(path), os.fsencode(name))

    def setxattr(self, path, name, value, *, create=False, replace=False):
        """Sets an extended attribute; fails if it exists with `create`, and if it does not with `replace`."""
        flags = (os.XATTR_CREATE if create else 0) | (os.XATTR_REPLACE if replace else 0)
        with pinned(value) as (address, size):
            lib.hayate_setxattr(self.number, os.fsencode(path), os.fsencode(name), address, size, flags)

    def listxattr(self, path):
        """Names of extended attributes."""
        names = self._sized(lib.hayate_listxattr, os.fsencode(path))
        return [os.fsdecode(name) for name in names.split(b"\0")[:-1]]

    def removexattr(self, path, name):
        """Removes an extended attribute."""
        lib.hayate_removexattr(self.number, os.fsencode(path), os.fsencode(name))

    def _sized(self, function, *arguments):
        while True:
            room = bytearray(function(self.number, *arguments, None, 0))
            if not room:
                return b""
            with pinned(room, writable=True) as (address, size):
                got = _or_errno(function, self.number, *arguments, address, size)
            if got is not None:
                return bytes(memoryview(room)[:got])

    # --- names ---

    def scandir(self, path="/", *, attributes=False):
        """Entries of a directory, in no order that means anything; with `attributes` each has them."""
        path = os.fspath(path)
        listing = lib.hayate_opendir(self.number, os.fsencode(path), bool(attributes))
        try:
            record = EntryRecord()
            while lib.hayate_readdir(listing, byref(record)):
                yield Entry(os.fsdecode(path), record)
        finally:
            lib.hayate_closedir(listing)

    def listdir(self, path="/"):
        """Names in a directory."""
        return [entry.name for entry in self.scandir(path)]

    def walk(self, top="/"):
        """As os.walk(), from above: (directory, names of directories, other names)."""
        pending = [os.fspath(top)]
        while pending:
            here = pending.pop()
            entries = list(self.scandir(here))
            below = [entry.name for entry in entries if entry.is_dir()]
            yield here, below, [entry.name for entry in entries if not entry.is_dir()]
            pending.extend(posixpath.join(here, name) for name in reversed(below))

    def mkdir(self, path, permissions=0o777):
        """Makes a directory."""
        lib.hayate_mkdir(self.number, os.fsencode(path), permissions)

    def makedirs(self, path, permissions=0o777, exist_ok=False):
        """Makes a directory and those above it that are missing."""
        path = os.fspath(path)
        if exist_ok:
            lib.hayate_mkdir_all(self.number, os.fsencode(path), permissions)
            return
        above = posixpath.dirname(path.rstrip("/"))
        if above.strip("/"):
            lib.hayate_mkdir_all(self.number, os.fsencode(above), permissions)
        self.mkdir(path, permissions)

    def remove(self, path):
        """Removes a name that is not a directory."""
        lib.hayate_unlink(self.number, os.fsencode(path))

    def rmdir(self, path):
        """Removes an empty directory."""
        lib.hayate_rmdir(self.number, os.fsencode(path))

    def rmtree(self, path):
        """Removes a directory and all that is in it; symbolic links are removed, not followed."""
        for entry in list(self.scandir(path)):
            (self.rmtree if entry.is_dir() else self.remove)(entry.path)
        self.rmdir(path)

    def rename(self, source, target):
        """Moves a name, over whatever may be at the new one."""
        lib.hayate_rename(self.number, os.fsencode(source), os.fsencode(target))

    def link(self, source, target):
        """Gives a file a further name."""
        lib.hayate_link(self.number, os.fsencode(source), os.fsencode(target))

    def symlink(self, target, path):
        """Makes a symbolic link at `path` that says `target`."""
        lib.hayate_symlink(self.number, os.fsencode(target), os.fsencode(path))

    def readlink(self, path):
        """What a symbolic link says."""
        room = bytearray(_LINK_BYTES)
        with pinned(room, writable=True) as (address, size):
            got = lib.hayate_readlink(self.number, os.fsencode(path), address, size)
        return os.fsdecode(bytes(room[:got]))

    # --- the cluster ---

    def space(self):
        """Space of all servers together; up to a second old."""
        record = SpaceRecord()
        lib.hayate_statfs(self.number, byref(record))
        return Space(record)

    def flush_to_tier(self, path):
        """Makes the servers copy a file to tier 2 now, whatever its policy, or when nobody has it open for writing any more; does not wait for it."""
        lib.hayate_tier_flush(self.number, os.fsencode(path))

    def is_durable(self, path):
        """Whether a file is in tier 2 as it is now."""
        return self.getxattr(path, "user.hayate.durable") == b"yes"


def _or_errno(function, *arguments):
    """What a call answers; None if there was not enough room."""
    try:
        return function(*arguments)
    except OSError as error:
        if error.errno == 34:  # ERANGE
            return None
        raise


def _again(cluster, timeout, memory, trust):
    """A connection that is made when it is used: whoever unpickles may be where no cluster is."""
    fs = FileSystem.__new__(FileSystem)
    fs._made_of = (cluster, timeout, memory, trust)
    fs._lock = threading.Lock()
    fs._pid = fs._number = None
    _all.add(fs)
    return fs


_all = weakref.WeakSet()


def _forked():
    """Another thread of the parent may have held a lock."""
    for fs in list(_all):
        fs._lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)

__all__ = ["Entry", "FileSystem", "Space", "Stat", "failure"]
