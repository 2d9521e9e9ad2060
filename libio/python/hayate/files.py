"""Open files: a raw file of the io module, so that its buffers and text layers work as on local files."""

import io
import os

from ._buffers import pinned
from ._library import OpenRecord, StatRecord, byref, lib, sizeof

#: Bytes that a buffered file reads or writes at once: a usual chunk. Memory of a buffer that is not filled is not used.
BUFFER_BYTES = 1 << 20

_KINDS = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT | os.O_APPEND, "x": os.O_CREAT | os.O_EXCL}


def flags_of(mode):
    """Flags of open(2) for a mode of open(), and whether it is text."""
    letters = set(mode)
    kinds = letters & set(_KINDS)
    if len(letters) != len(mode) or letters - set("rwaxbt+") or len(kinds) != 1 or {"b", "t"} <= letters:
        raise ValueError(f"invalid mode: {mode!r}")
    kind = kinds.pop()
    access = os.O_RDWR if "+" in letters else os.O_RDONLY if kind == "r" else os.O_WRONLY
    return access | _KINDS[kind], "b" not in letters


class RawFile(io.RawIOBase):
    """An open file without a buffer. Reading and writing take any object with a buffer and do not copy it.

    Threads may share one with `pread_into`, `pwrite` and `append`; the others move its position.
    """

    def __init__(self, fs, path, flags, permissions=0o666, layout=None, expected_bytes=0):
        self._number = None  # For closing, if opening fails.
        self._position = 0
        self._flags = flags
        self.name = path
        self._fs = fs
        how = OpenRecord(sizeof(OpenRecord), None if layout is None else layout.encode(), expected_bytes)
        self._number = lib.hayate_open_with(fs.number, os.fsencode(path), flags, permissions, byref(how))
        self._pid = os.getpid()
        if flags & os.O_APPEND:
            self.seek(0, os.SEEK_END)

    @property
    def mode(self):
        access = self._flags & os.O_ACCMODE
        return {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(access, "rb+")

    def _open_number(self):
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self._number

    def readable(self):
        self._open_number()
        return self._flags & os.O_ACCMODE != os.O_WRONLY

    def writable(self):
        self._open_number()
        return self._flags & os.O_ACCMODE != os.O_RDONLY

    def seekable(self):
        self._open_number()
        return True

    def fileno(self):
        raise io.UnsupportedOperation("a file of Hayate has no number of the operating system")

    def isatty(self):
        return False

    # --- at a given place ---

    def pread_into(self, buffer, offset):
        """Reads into a writable buffer; answers how many bytes, fewer only at the end of the file."""
        number = self._open_number()
        with pinned(buffer, writable=True) as (address, size):
            return lib.hayate_pread(number, address, size, offset)

    def pread(self, size, offset):
        """Up to so many bytes, fewer only at the end of the file."""
        room = bytearray(size)
        got = self.pread_into(room, offset)
        return bytes(memoryview(room)[:got])

    def pwrite(self, data, offset):
        """Writes all of the data; answers how many bytes that are."""
        number = self._open_number()
        with pinned(data) as (address, size):
            return lib.hayate_pwrite(number, address, size, offset)

    def append(self, data):
        """Writes at the end, wherever that is by then; answers where that was."""
        number = self._open_number()
        with pinned(data) as (address, size):
            return lib.hayate_append(number, address, size)

    def copy_to(self, target, size, offset=0, target_offset=0):
        """Copies bytes to another raw file of the connection, from server to server; answers how many."""
        return lib.hayate_copy(self._open_number(), offset, target._open_number(), target_offset, size)

    # --- at the position ---

    def readinto(self, buffer):
        self._must(self.readable())
        got = self.pread_into(buffer, self._position)
        self._position += got
        return got

    def readall(self):
        self._must(self.readable())
        room = bytearray(max(self.stat().size - self._position, 0))
        got = self.readinto(room)
        # A file that grew meanwhile is read to its end by a call that finds nothing more.
        return bytes(memoryview(room)[:got]) + (super().readall() or b"" if got == len(room) else b"")

    def write(self, data):
        self._must(self.writable())
        if self._flags & os.O_APPEND:
            with memoryview(data) as view:
                size = view.nbytes
            self._position = self.append(data) + size
            return size
        wrote = self.pwrite(data, self._position)
        self._position += wrote
        return wrote

    def _must(self, can):
        if not can:
            raise io.UnsupportedOperation("the file was not opened for this")

    def seek(self, offset, whence=os.SEEK_SET):
        self._open_number()
        if whence == os.SEEK_SET:
            base = 0
        elif whence == os.SEEK_CUR:
            base = self._position
        elif whence == os.SEEK_END:
            base = self.stat().size
        else:
            raise ValueError(f"invalid whence ({whence})")
        if base + offset < 0:
            raise OSError(22, f"a file has no place {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self):
        self._open_number()
        return self._position

    def truncate(self, size=None):
        self._must(self.writable())
        size = self._position if size is None else size
        lib.hayate_ftruncate(self._number, size)
        return size

    # --- all of it ---

    def stat(self):
        """Attributes as they are now."""
        from .filesystem import Stat

        record = StatRecord()
        lib.hayate_fstat(self._open_number(), byref(record))
        return Stat(record)

    def flush(self):
        """Publishes size and time of what was written, so that others see them."""
        if not self.closed and self._number is not None and self.writable():
            lib.hayate_flush(self._number)

    def sync(self):
        """Makes what was written durable."""
        lib.hayate_fsync(self._open_number())

    def close(self):
        if self.closed:
            return
        number, self._number = self._number, None
        super().close()
        # What a forked child inherited is its parent's to close.
        if number is not None and self._pid == os.getpid():
            lib.hayate_close(number)

    def __repr__(self):
        return f"<hayate.RawFile {self.name!r} mode={self.mode!r}>" if not self.closed else "<hayate.RawFile closed>"


def opened(fs, path, mode, buffering, encoding, errors, newline, permissions, layout, expected_bytes):
    """What the built-in open() would answer."""
    flags, text = flags_of(mode)
    if text and buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    if not text and (encoding or errors or newline):
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    raw = RawFile(fs, path, flags, permissions, layout, expected_bytes)
    if buffering == 0:
        return raw
    line_buffering = text and buffering == 1
    size = buffering if buffering > 1 else BUFFER_BYTES
    access = flags & os.O_ACCMODE
    buffer = {os.O_RDONLY: io.BufferedReader, os.O_WRONLY: io.BufferedWriter}.get(access, io.BufferedRandom)(raw, size)
    if not text:
        return buffer
    try:
        return io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering)
    except BaseException:
        buffer.close()
        raise
