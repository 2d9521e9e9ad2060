"""Goal: one file that is open on two mounts reads as what was written last, on whichever mount. Method: as fsx does: random operations, each by one
of the two, compared with a copy in memory; the seed repeats them.

Usage: fsx_two.py MOUNT OTHER-MOUNT strict|direct|fixed OPERATIONS SEED
strict: both mounts ask always (time-out 0); direct: the same, and the file is opened with O_DIRECT; fixed: the mounts may remember attributes, the file
is opened with O_DIRECT and keeps its size.
"""

import ctypes
import errno
import mmap
import os
import random
import sys
from collections import deque

# Past two chunks, so that servers change within an operation; small ones keep a file with its inode.
LENGTHS = (12_000, 3_000_000)
LARGEST = 150_000
PAGE = mmap.PAGESIZE
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
HISTORY = 30
_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(file, mode, offset, length):
    if _libc.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), f"fallocate({mode}, {offset}, {length})")


class Wrong(Exception):
    """The file system answered something else than the copy in memory."""


class File:
    """A file by its two mounts, and what it should hold."""

    def __init__(self, mounts, name, mode, chance, limit):
        self.paths = [os.path.join(mount, name) for mount in mounts]
        self.flags = os.O_RDWR | (0 if mode == "strict" else os.O_DIRECT)
        self.chance, self.limit = chance, limit
        self.want = bytearray()
        self.history = deque(maxlen=HISTORY)
        with open(self.paths[0], "xb") as file:
            if mode == "fixed":
                file.truncate(limit)
                self.want = bytearray(limit)
        self.files = [os.open(path, self.flags) for path in self.paths]
        # O_DIRECT wants memory on a page's border.
        self.buffer = mmap.mmap(-1, LARGEST + PAGE)
        self.operations = {self.read: 20, self.write: 20, self.cut: 2, self.punch: 3, self.zero: 2, self.allocate: 1, self.copy: 2,
                           self.reopen: 2, self.sync: 1, self.size: 4, self.seek: 2, self.map_read: 1, self.map_write: 1}
        if mode == "fixed":
            # A map goes through the page cache, which hears of the other's writes when they are published.
            for operation in (self.cut, self.map_read, self.map_write):
                del self.operations[operation]

    def step(self):
        side = self.chance.randrange(2)
        operation = self.chance.choices(list(self.operations), list(self.operations.values()))[0]
        offset = self.chance.randrange(self.limit)
        length = self.chance.randrange(1, min(LARGEST, self.limit - offset) + 1)
        self.history.append((side, operation.__name__, offset, length))
        operation(side, offset, length)

    def compare(self, got, offset, length):
        want = self.want[offset:offset + length]
        if got == want:
            return
        if len(got) != len(want):
            raise Wrong(f"{len(got)} bytes came, not {len(want)}; the file should have {len(self.want)}")
        bad = [at for at in range(len(want)) if got[at] != want[at]]
        raise Wrong(f"{len(bad)} bytes differ from {offset + bad[0]} to {offset + bad[-1]}: {got[bad[0]]}, not {want[bad[0]]}")

    def fit(self, end):
        if end > len(self.want):
            self.want.extend(bytes(end - len(self.want)))

    def read(self, side, offset, length):
        count = os.preadv(self.files[side], [memoryview(self.buffer)[:length]], offset)
        self.compare(self.buffer[:count], offset, length)

    def write(self, side, offset, length):
        data = self.chance.randbytes(length)
        self.buffer[:length] = data
        if os.pwritev(self.files[side], [memoryview(self.buffer)[:length]], offset) != length:
            raise Wrong("not all was written")
        self.fit(offset + length)
        self.want[offset:offset + length] = data

    def cut(self, side, offset, _):
        os.ftruncate(self.files[side], offset)
        self.fit(offset)
        del self.want[offset:]

    def clear(self, offset, end):
        end = min(end, len(self.want))
        if offset < end:
            self.want[offset:end] = bytes(end - offset)

    def punch(self, side, offset, length):
        fallocate(self.files[side], PUNCH_HOLE | KEEP_SIZE, offset, length)
        self.clear(offset, offset + length)

    def zero(self, side, offset, length):
        fallocate(self.files[side], ZERO_RANGE, offset, length)
        self.fit(offset + length)
        self.clear(offset, offset + length)

    def allocate(self, side, offset, length):
        fallocate(self.files[side], 0, offset, length)
        self.fit(offset + length)

    def copy(self, side, offset, length):
        to = self.chance.randrange(self.limit)
        length = min(length, len(self.want) - offset, abs(to - offset), self.limit - to)
        if length <= 0:
            return
        # The kernel may copy by splice(2), which reads the page cache as a map does.
        source = os.open(self.paths[side], self.flags)
        done = os.copy_file_range(source, self.files[side], length, offset, to)
        os.close(source)
        self.fit(to + done)
        self.want[to:to + done] = self.want[offset:offset + done]

    def reopen(self, side, *_):
        os.close(self.files[side])
        self.files[side] = os.open(self.paths[side], self.flags)

    def sync(self, side, *_):
        os.fsync(self.files[side])

    def size(self, side, *_):
        for size in (os.fstat(self.files[side]).st_size, os.stat(self.paths[side]).st_size):
            if size != len(self.want):
                raise Wrong(f"its size is {size}, not {len(self.want)}")

    def seek(self, side, offset, _):
        """What is no data is zeros."""
        try:
            data = os.lseek(self.files[side], offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = len(self.want)
        if any(self.want[offset:data]):
            raise Wrong(f"{offset} to {data} is said to be a hole")

    def mapped(self, side, offset, length, work):
        """By a map over a fresh opening: pages of an earlier one need not be the newest (docs/semantics.md)."""
        length = min(length, len(self.want) - offset)
        if length <= 0:
            return
        first = offset // PAGE * PAGE
        file = os.open(self.paths[side], os.O_RDWR)
        with mmap.mmap(file, offset + length - first, offset=first) as pages:
            work(pages, offset - first, length)
        os.close(file)

    def map_read(self, side, offset, length):
        self.mapped(side, offset, length, lambda pages, at, count: self.compare(pages[at:at + count], offset, count))

    def map_write(self, side, offset, length):
        def work(pages, at, count):
            data = self.chance.randbytes(count)
            pages[at:at + count] = data
            pages.flush()
            self.want[offset:offset + count] = data

        self.mapped(side, offset, length, work)

    def end(self):
        for side in (0, 1):
            os.close(self.files[side])
            with open(self.paths[side], "rb") as file:
                self.compare(file.read(), 0, len(self.want) + 1)


def main():
    mounts, (mode, operations, seed) = sys.argv[1:3], sys.argv[3:]
    for turn, limit in enumerate(LENGTHS):
        # A third of the work is for the file that stays small.
        count = int(operations) * (turn + 1) // 3
        file = File(mounts, f"{mode}-{seed}-{limit}", mode, random.Random(f"{seed} {limit}"), limit)
        number = 0
        try:
            for number in range(count):
                file.step()
            file.end()
        except (Wrong, OSError) as error:
            print(f"seed {seed}, up to {limit} bytes, operation {number}: {error}\nthe last (mount, operation, offset, length):")
            print(*file.history, sep="\n")
            sys.exit(1)
        print(f"{mode}, up to {limit} bytes: {count} operations")


main()
