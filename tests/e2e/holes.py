"""Holes, as programs make and find them, on a mount and on another of the same cluster. Usage: holes.py MOUNT OTHER-MOUNT"""

import ctypes
import errno
import mmap
import os
import shutil
import subprocess
import sys

from checks import check, fails_with, finish, read, write

A, B = sys.argv[1] + "/", sys.argv[2] + "/"
LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = 1, 2, 8, 16, 32, 64
MIB = 1 << 20


def fallocate(file, mode, offset, length):
    if LIBC.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)) == -1:
        raise OSError(ctypes.get_errno(), "fallocate")


def punch(file, offset, length):
    fallocate(file, PUNCH_HOLE | KEEP_SIZE, offset, length)


def full(length):
    """Bytes without a zero, different on every page."""
    return bytes(1 + (at // 4096 + at) % 255 for at in range(8192)) * (length // 8192 + 1)


def segments(path):
    """(begin, end) of all data, as programs find them."""
    file, found, at = os.open(path, os.O_RDONLY), [], 0
    while True:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            os.close(file)
            return found
        at = os.lseek(file, begin, os.SEEK_HOLE)
        found.append((begin, at))


def caches():
    """Neither pages that were read nor maps show what was there."""
    content = bytearray(full(4 * MIB)[: 4 * MIB])
    write(A + "cached", content)
    file = os.open(A + "cached", os.O_RDWR)
    second = os.open(A + "cached", os.O_RDONLY)
    with mmap.mmap(file, 4 * MIB) as mapped:
        check("all is in the cache", mapped[:] == content and os.pread(second, 4 * MIB, 0) == content)
        for begin, length in ((100, 50), (4096, 8192), (MIB - 5000, 10_000), (3 * MIB, MIB)):
            punch(file, begin, length)
            content[begin : begin + length] = bytes(length)
            check(f"a map shows {length} zeros at {begin}", mapped[:] == content)
            check("so does a read", os.pread(second, 4 * MIB, 0) == content)
        mapped[2 * MIB : 2 * MIB + 5] = b"dirty"
        fallocate(file, ZERO_RANGE, 2 * MIB - 10, 100)
        content[2 * MIB - 10 : 2 * MIB + 90] = bytes(100)
        check("what was written by a map before is zeroed, too", mapped[:] == content)
        mapped[MIB : MIB + 5] = b"again"
        content[MIB : MIB + 5] = b"again"
        mapped.flush()
    check("what is written into a hole stays", os.pread(second, 4 * MIB, 0) == content)
    os.close(file)
    os.close(second)
    check("the other mount shows the same", read(B + "cached") == content)


def small_files():
    write(A + "small", b"0123456789" * 100)
    reader = os.open(A + "small", os.O_RDONLY)  # Its content came along.
    file = os.open(A + "small", os.O_RDWR)
    punch(file, 10, 20)
    expected = b"0123456789" + bytes(20) + b"0123456789" * 97
    check("a hole in a small file", os.pread(reader, 2000, 0) == expected)
    check("it is all data", os.lseek(reader, 0, os.SEEK_DATA) == 0 and os.lseek(reader, 0, os.SEEK_HOLE) == 1000)
    fallocate(file, ZERO_RANGE, 990, 100)
    check("zeros beyond its end", os.pread(reader, 2000, 0) == expected[:990] + bytes(100))
    os.close(file)
    os.close(reader)
    check("the same on the other mount", read(B + "small") == expected[:990] + bytes(100))


def modes():
    file = os.open(A + "modes", os.O_CREAT | os.O_RDWR)
    os.pwrite(file, full(100_000)[:100_000], 0)
    before = os.fstat(file)
    punch(file, 90_000, MIB)
    after = os.fstat(file)
    check("a hole keeps the size", after.st_size == 100_000)
    check("and changes the times", after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns)
    fallocate(file, ZERO_RANGE | KEEP_SIZE, 80_000, MIB)
    check("so do zeros with KEEP_SIZE", os.fstat(file).st_size == 100_000)
    fallocate(file, ZERO_RANGE, 70_000, 80_000)
    check("zeros reach beyond the end", os.fstat(file).st_size == 150_000)
    check("and are zeros", os.pread(file, MIB, 70_000) == bytes(80_000))
    fallocate(file, KEEP_SIZE, 0, 2 * MIB)
    check("allocation with KEEP_SIZE", os.fstat(file).st_size == 150_000)
    fallocate(file, 0, 0, 2 * MIB)
    check("allocation", os.fstat(file).st_size == 2 * MIB and os.pread(file, 70_000, 0) == full(70_000)[:70_000])
    for name, mode in (("COLLAPSE_RANGE", COLLAPSE_RANGE), ("INSERT_RANGE", INSERT_RANGE), ("UNSHARE_RANGE", UNSHARE_RANGE)):
        check(f"{name}: EOPNOTSUPP", fails_with(errno.EOPNOTSUPP, fallocate, file, mode, 0, 4096))
    reader = os.open(A + "modes", os.O_RDONLY)
    check("not through a read-only descriptor", fails_with(errno.EBADF, punch, reader, 0, 10))
    os.close(reader)
    os.close(file)


def seeks():
    file = os.open(A + "sparse", os.O_CREAT | os.O_RDWR)
    os.ftruncate(file, 1 << 50)
    os.pwrite(file, full(3 * MIB)[: 3 * MIB], 5 * MIB)
    os.pwrite(file, b"end", (1 << 50) - 3)
    check("what another process wrote is found before it is closed", segments(A + "sparse") == segments(B + "sparse"))
    check("all data of a pebibyte is found", segments(A + "sparse") == [(5 * MIB, 8 * MIB), ((1 << 50) - 3, 1 << 50)])
    check("SEEK_HOLE in data", os.lseek(file, 6 * MIB, os.SEEK_HOLE) == 8 * MIB)
    check("SEEK_HOLE in a hole", os.lseek(file, 123, os.SEEK_HOLE) == 123)
    check("SEEK_HOLE in the last data is the end", os.lseek(file, (1 << 50) - 2, os.SEEK_HOLE) == 1 << 50)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        check(f"seek {whence} at the end: ENXIO", fails_with(errno.ENXIO, os.lseek, file, 1 << 50, whence))
        check(f"seek {whence} before the beginning: ENXIO", fails_with(errno.ENXIO, os.lseek, file, -1, whence))
    punch(file, 0, 1 << 50)
    check("no data is left: ENXIO", fails_with(errno.ENXIO, os.lseek, file, 0, os.SEEK_DATA))
    os.lseek(file, 17, os.SEEK_SET)
    check("other seeks are as ever", os.lseek(file, 3, os.SEEK_CUR) == 20 and os.lseek(file, 0, os.SEEK_END) == 1 << 50)
    os.close(file)


def programs():
    """fallocate(1) and cp(1)."""
    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False).returncode

    content = bytearray(full(6 * MIB)[: 6 * MIB])
    write(A + "tools", content)
    if shutil.which("fallocate"):
        check("fallocate --punch-hole", run("fallocate", "-p", "-o", str(MIB), "-l", str(MIB), A + "tools") == 0)
        check("fallocate --zero-range", run("fallocate", "-z", "-o", str(5 * MIB), "-l", str(2 * MIB), A + "tools") == 0)
        check("fallocate --zero-range --keep-size", run("fallocate", "-z", "-n", "-o", str(3 * MIB), "-l", "100000", A + "tools") == 0)
        check("fallocate --collapse-range fails", run("fallocate", "-c", "-o", "0", "-l", str(MIB), A + "tools") != 0)
    else:
        file = os.open(A + "tools", os.O_RDWR)
        punch(file, MIB, MIB)
        fallocate(file, ZERO_RANGE, 5 * MIB, 2 * MIB)
        fallocate(file, ZERO_RANGE | KEEP_SIZE, 3 * MIB, 100_000)
        os.close(file)
    content[MIB : 2 * MIB] = bytes(MIB)
    content[3 * MIB : 3 * MIB + 100_000] = bytes(100_000)
    content[5 * MIB :] = bytes(2 * MIB)
    data = [(0, MIB), (2 * MIB, 3 * MIB), (3 * MIB + 100_000, 5 * MIB)]
    check("their holes are zeros", read(A + "tools") == content and read(B + "tools") == content)
    check("and found", segments(A + "tools") == data and segments(B + "tools") == data)
    check("cp --sparse=always", run("cp", "--sparse=always", A + "tools", A + "copy") == 0 and read(B + "copy") == content)
    check("makes holes again", sum(end - begin for begin, end in segments(A + "copy")) <= 4 * MIB)
    check("cp", run("cp", A + "tools", A + "plain") == 0 and read(B + "plain") == content)


for part in (caches, small_files, modes, seeks, programs):
    part()
finish()
