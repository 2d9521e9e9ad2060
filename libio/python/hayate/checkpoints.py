"""Checkpoints: versions of a set that ranks write together, offered for restart wholly or not at all.

    checkpoints = hayate.Checkpoints(root="/checkpoints")
    with checkpoints.begin("heat", step, rank, nranks) as writer:     # no MPI needed
        writer.write(f"field-{rank}", array)                          # may be changed at once
                                                                      # commits at the end, for all ranks or for none
    if (step := checkpoints.latest("heat")) is not None:
        checkpoints.open("heat", step).read_into("field-0", array)

A region belongs to the version, not to a rank, so any number of ranks may read what any number wrote. Servers copy a committed version to tier 2 by
themselves. What fails raises the OSError of its errno: ECANCELED if a rank gave up or did not come, EBUSY if another group took over, EEXIST if the
version is committed, ETIMEDOUT; docs/clients.md has a table of all.
"""

import ctypes
import enum
import os
import threading
import weakref
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass

from ._buffers import pinned
from ._library import _declare, lib

#: Bytes of a region's name or a path at most.
_NAME_BYTES = 4096


class _OptionsRecord(Structure):
    _fields_ = [
        ("size", c_size_t), ("timeout_ms", c_uint32), ("copies", c_uint32), ("parity_data", c_uint32), ("parity_extra", c_uint32),
        ("flush", c_char_p), ("incremental", c_int), ("compress", c_int),
    ]


class _InfoRecord(Structure):
    _fields_ = [("version", c_uint64), ("bytes", c_uint64), ("state", c_int), ("nranks", c_uint32), ("pinned", c_int), ("reserved", c_int)]


class _AdviceRecord(Structure):
    _fields_ = [("size", c_size_t), ("checkpoint", c_int), ("stop", c_int), ("next_s", c_double)]


_declare("hayate_ckpt_open", c_int, c_int, c_char_p, c_char_p, c_char_p)
_declare("hayate_ckpt_close", c_int, c_int)
_declare("hayate_ckpt_begin", c_int, c_int, c_char_p, c_uint64, c_uint32, c_uint32, POINTER(_OptionsRecord))
_declare("hayate_ckpt_write", c_int64, c_int, c_char_p, c_void_p, c_size_t, c_uint64)
_declare("hayate_ckpt_route", c_int64, c_int, c_char_p, c_void_p, c_size_t)
_declare("hayate_ckpt_commit", c_int, c_int, c_int)
_declare("hayate_ckpt_seal", c_int, c_int, c_int)
_declare("hayate_ckpt_test", c_int, c_int)
_declare("hayate_ckpt_join", c_int, c_int, c_uint32)
_declare("hayate_ckpt_abort", c_int, c_int)
_declare("hayate_ckpt_latest", c_int, c_int, c_char_p, c_uint64, POINTER(c_uint64))
_declare("hayate_ckpt_state", c_int, c_int, c_char_p, c_uint64)
_declare("hayate_ckpt_wait", c_int, c_int, c_char_p, c_uint64, c_int, c_uint32)
_declare("hayate_ckpt_size", c_int64, c_int, c_char_p, c_uint64, c_char_p)
_declare("hayate_ckpt_read", c_int64, c_int, c_char_p, c_uint64, c_char_p, c_void_p, c_size_t, c_uint64)
_declare("hayate_ckpt_region", c_int, c_int, c_char_p, c_uint64, c_size_t, c_void_p, c_size_t, POINTER(c_uint64))
_declare("hayate_ckpt_finish", c_int, c_int, c_char_p, c_uint64, c_int)
_declare("hayate_ckpt_pin", c_int, c_int, c_char_p, c_uint64, c_int)
_declare("hayate_ckpt_remove", c_int, c_int, c_char_p, c_uint64)
_declare("hayate_ckpt_prune", c_int, c_int, c_char_p, c_size_t)
_declare("hayate_ckpt_list", c_int64, c_int, c_char_p, POINTER(_InfoRecord), c_size_t, c_size_t)
_declare("hayate_ckpt_drain_time", c_int, c_int, c_uint64, POINTER(c_double))
_declare("hayate_ckpt_time_left", c_int, POINTER(c_double))
_declare("hayate_ckpt_advise", c_int, c_double, c_double, c_double, c_double, c_double, POINTER(_AdviceRecord))


class State(enum.IntEnum):
    """What became of a version; from COMMITTED on it can be restarted from."""

    DAMAGED = 0
    OPEN = 1
    ABORTED = 2
    FAILED = 3
    SEALED = 4
    COMMITTED = 5
    DURABLE = 6


@dataclass(frozen=True)
class VersionInfo:
    """What is known of a version; `nranks` and `bytes` are 0 unless it is committed."""

    version: int
    state: State
    nranks: int
    bytes: int
    pinned: bool


@dataclass(frozen=True)
class Advice:
    """What to do now: write a checkpoint; write a last one and end; seconds to compute before the next."""

    checkpoint: bool
    stop: bool
    next_s: float


def advise(*, mtbf, cost, since, left=None, drain=0.0):
    """Whether a checkpoint is due, in seconds each: `mtbf` between failures of the whole job, `cost` that a checkpoint keeps the program from
    computing, `since` the last one, `left` until the job's end (see time_left), `drain` until what is written now would be in tier 2."""
    record = _AdviceRecord(ctypes.sizeof(_AdviceRecord))
    lib.hayate_ckpt_advise(mtbf, cost, since, -1.0 if left is None else left, drain, byref(record))
    return Advice(bool(record.checkpoint), bool(record.stop), record.next_s)


def time_left():
    """Seconds until the job ends, if its launcher says when (Slurm does, in SLURM_JOB_END_TIME); else None."""
    seconds = c_double()
    return seconds.value if lib.hayate_ckpt_time_left(byref(seconds)) else None


def _milliseconds(seconds):
    return min(max(0, int(seconds * 1000)), 0xFFFFFFFF)


class Checkpoints:
    """The sets below directory `root`. Any thread may use it; a forked child opens it anew; it can be pickled.

    All ranks of one run give the same `group`, every run another; without one it is that of HAYATE_GROUP, Slurm or PMIx, else random, which suits one
    process. `mount` is where the file system is mounted, for Writer.route.
    """

    def __init__(self, fs=None, root="/checkpoints", group=None, mount=None):
        if fs is None:
            import hayate

            fs = hayate.default()
        self.fs, self.root = fs, root
        self._made_of = (fs, root, group, mount)
        self._lock = threading.Lock()
        _all.add(self)
        self._of, self._number = None, None
        self._open_number()

    def _open_number(self):
        """The number in libhayate; it goes with the connection's."""
        of = (os.getpid(), self.fs.number)
        if self._of != of:
            with self._lock:
                if self._of != of:
                    _, root, group, mount = self._made_of
                    strings = (None if text is None else os.fsencode(text) for text in (root, group, mount))
                    self._number, self._of = lib.hayate_ckpt_open(of[1], *strings), of
        return self._number

    def __reduce__(self):
        return Checkpoints, self._made_of

    def __del__(self):
        if getattr(self, "_of", None) and self._of[0] == os.getpid():
            try:
                lib.hayate_ckpt_close(self._number)
            except OSError:
                pass  # The process is ending.

    # --- writing ---

    def begin(self, set, version, rank=0, nranks=1, *, timeout=None, copies=0, parity=None, flush=None, incremental=False, compress=0):
        """Begins to write a version, without waiting for other ranks: a Writer. All ranks give the same options: `timeout` in seconds is how long
        a commit waits for the others (600); so many `copies` on other servers, or `parity` as (servers with data, servers with parity); `flush`
        is when servers copy to tier 2 (`close`, `idle:SECONDS`, `demand`, `never`); `incremental` stores only blocks of 1 MiB that differ from the version
        before; `compress` is a level of zstd for blocks where it saves an eighth or more (1 is fast, 0 off)."""
        data, extra = parity or (0, 0)
        options = _OptionsRecord(
            ctypes.sizeof(_OptionsRecord), 0 if timeout is None else max(1, _milliseconds(timeout)), copies, data, extra,
            None if flush is None else flush.encode(), bool(incremental), compress)
        number = lib.hayate_ckpt_begin(self._open_number(), set.encode(), version, rank, nranks, byref(options))
        return Writer(self, set, version, number)

    def save(self, set, version, regions, **options):
        """Writes and commits a version of one rank: `regions` are buffers by name."""
        with self.begin(set, version, **options) as writer:
            for name, data in regions.items():
                writer.write(name, data)

    # --- what there is ---

    def latest(self, set, below=None):
        """The newest version to restart from, less than `below`; None if there is none."""
        if below == 0:
            return None
        version = c_uint64()
        found = lib.hayate_ckpt_latest(self._open_number(), set.encode(), below or 0, byref(version))
        return version.value if found else None

    def list(self, set):
        """All versions that somebody began, oldest first."""
        room = 16
        while True:
            records = (_InfoRecord * room)()
            count = lib.hayate_ckpt_list(self._open_number(), set.encode(), records, ctypes.sizeof(_InfoRecord), room)
            if count <= room:
                return [VersionInfo(each.version, State(each.state), each.nranks, each.bytes, bool(each.pinned)) for each in records[:count]]
            room = count + 16

    def versions(self, set):
        """Numbers of the versions that are committed, oldest first."""
        return [info.version for info in self.list(set) if info.state >= State.COMMITTED]

    def state(self, set, version):
        """What became of a version."""
        return State(lib.hayate_ckpt_state(self._open_number(), set.encode(), version))

    def wait(self, set, version, level=State.COMMITTED, timeout=600.0):
        """Waits until a version is SEALED, COMMITTED or DURABLE; TimeoutError if not in time."""
        lib.hayate_ckpt_wait(self._open_number(), set.encode(), version, level, _milliseconds(timeout))

    def open(self, set, version):
        """A committed version, for reading."""
        return Version(self, set, version)

    def restore(self, set, version, regions):
        """Reads whole regions into the buffers, by name."""
        stored = self.open(set, version)
        for name, buffer in regions.items():
            with memoryview(buffer) as view:
                size = view.nbytes
            if stored.size(name) != size or stored.read_into(name, buffer) != size:
                raise ValueError(f"region {name!r} of version {version} has {stored.size(name)} bytes, the program {size}")

    # --- keeping house ---

    def finish(self, set, version, ok):
        """Tells how the restart from a version ended: one that failed is not offered again."""
        lib.hayate_ckpt_finish(self._open_number(), set.encode(), version, bool(ok))

    def pin(self, set, version, pinned=True):
        """Says that a version is never pruned, or that it may be."""
        lib.hayate_ckpt_pin(self._open_number(), set.encode(), version, bool(pinned))

    def remove(self, set, version):
        """Removes one version, whichever it is: one that failed or is damaged, say, whose number is to be written again."""
        lib.hayate_ckpt_remove(self._open_number(), set.encode(), version)

    def prune(self, set, keep=1):
        """Removes all but the newest `keep` complete versions, pinned ones and the newest durable one; answers how many went."""
        return lib.hayate_ckpt_prune(self._open_number(), set.encode(), keep)

    def drain_time(self, more=0):
        """Seconds until what waits for tier 2, and `more` bytes, would be there at the servers' present rate; None if no rate is known, or there is no tier 2."""
        seconds = c_double()
        return seconds.value if lib.hayate_ckpt_drain_time(self._open_number(), more, byref(seconds)) else None

    advise = staticmethod(advise)


_all = weakref.WeakSet()


def _forked():
    """Another thread of the parent may have held a lock."""
    for checkpoints in list(_all):
        checkpoints._lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class Writer:
    """A rank's part of a version. As a context it commits at the end, and gives the version up for all ranks if an exception passes. It is the process's that
    began it: a forked child is refused (ENOTCONN), and may end as it likes."""

    def __init__(self, checkpoints, set, version, number):
        self._checkpoints = checkpoints  # Stays open meanwhile.
        self.set, self.version = set, version
        self._number, self._sealed, self._pid = number, False, os.getpid()

    def _open_number(self):
        if self._number is None:
            raise ValueError("this rank's part of the version is over")
        return self._number

    def _take(self):
        number, self._number = self._open_number(), None
        return number

    def write(self, name, data, offset=0):
        """Writes a buffer into a region at `offset`; answers how many bytes. It may be changed when this returns."""
        with pinned(data) as (address, size):
            return lib.hayate_ckpt_write(self._open_number(), name.encode(), address, size, offset)

    def route(self, name):
        """A path for a program that writes the region itself; it must close it before the commit."""
        room = bytearray(_NAME_BYTES)
        with pinned(room, writable=True) as (address, size):
            got = lib.hayate_ckpt_route(self._open_number(), name.encode(), address, size)
        return os.fsdecode(bytes(room[:got]))

    def commit(self, ok=True):
        """Commits if all ranks do so with `ok`, and waits for them; all get the same answer."""
        lib.hayate_ckpt_commit(self._take(), bool(ok))

    def seal(self, ok=True):
        """Makes this rank's part durable without waiting for the others; the last rank to do so commits the version."""
        try:
            lib.hayate_ckpt_seal(self._open_number(), bool(ok))
        except BaseException:
            self._number = None
            raise
        self._sealed = True

    def test(self):
        """After seal: whether the version is committed by now."""
        try:
            committed = bool(lib.hayate_ckpt_test(self._open_number()))
        except BaseException:
            self._number = None
            raise
        if committed:
            self._number = None
        return committed

    def join(self, timeout=600.0):
        """After seal: waits for the verdict; when the time is over and a rank is missing, the version is aborted for all."""
        lib.hayate_ckpt_join(self._take(), _milliseconds(timeout))

    def abort(self):
        """Gives the version up, for all ranks."""
        lib.hayate_ckpt_abort(self._take())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._number is None:
            return
        if kind is not None and self._pid != os.getpid():
            return  # A child that leaves, perhaps by sys.exit: the version is its parent's.
        if self._sealed:
            self.join()
        elif kind is None:
            self.commit()
        else:
            self.abort()

    def __del__(self):
        if getattr(self, "_number", None) is not None and self._pid == os.getpid():
            try:
                self.abort()
            except OSError:
                pass  # A part that is sealed stays; the number is given back.


class Version:
    """A committed version. Every byte that is read was checked."""

    def __init__(self, checkpoints, set, version):
        self._checkpoints, self.set, self.version = checkpoints, set, version
        self._regions = None

    def regions(self):
        """Bytes of each region, by name."""
        if self._regions is None:
            regions, room, size = {}, bytearray(_NAME_BYTES), c_uint64()
            number, name = self._checkpoints._open_number(), self.set.encode()
            with pinned(room, writable=True) as (address, length):
                while lib.hayate_ckpt_region(number, name, self.version, len(regions), address, length, byref(size)):
                    regions[room.split(b"\0", 1)[0].decode()] = size.value
            self._regions = regions
        return dict(self._regions)

    def size(self, name):
        """Bytes of a region."""
        return lib.hayate_ckpt_size(self._checkpoints._open_number(), self.set.encode(), self.version, name.encode())

    def read_into(self, name, buffer, offset=0):
        """Reads from a region into a writable buffer; answers how many bytes, fewer only at its end."""
        with pinned(buffer, writable=True) as (address, size):
            number = self._checkpoints._open_number()
            return lib.hayate_ckpt_read(number, self.set.encode(), self.version, name.encode(), address, size, offset)

    def read(self, name):
        """All of a region, as bytes."""
        room = bytearray(self.size(name))
        got = self.read_into(name, room) if room else 0
        return bytes(memoryview(room)[:got])


__all__ = ["Advice", "Checkpoints", "State", "Version", "VersionInfo", "Writer", "advise", "time_left"]
