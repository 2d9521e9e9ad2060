"""Goal: every numbered sentence of "Two nodes" in docs/semantics.md holds. Method: two pairs of mounts of one cluster, one pair that asks always and one
with the default time-outs; each check names its sentence, and the script that runs this compares the numbers with the document.

Usage: coherence.py STRICT OTHER-STRICT MOUNT OTHER-MOUNT
"""

import errno
import mmap
import os
import stat
import sys
import time
from contextlib import contextmanager

from checks import check, fails_with, finish, read, write

STRICT, STRICT_OTHER, DEFAULT, DEFAULT_OTHER = (mount + "/" for mount in sys.argv[1:5])
# The default time-outs, and what a busy machine may add.
TIMEOUT_S = 1.0
SLACK_S = 0.3
# What is written is published by itself when it is 5 s old, which is looked for every second.
PUBLISHED_S = 7.0
BIG = 300_000


@contextmanager
def opened(path, flags, mode=0o644):
    file = os.open(path, flags, mode)
    try:
        yield file
    finally:
        os.close(file)


def within(seconds, condition):
    """Whether it holds before the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def gone(path):
    return fails_with(errno.ENOENT, os.stat, path)


def strict_content(here, there):
    with opened(here + "s1", os.O_CREAT | os.O_RDWR) as one, opened(there + "s1", os.O_RDWR) as other:
        wrong = 0
        for size in (100, 15_000, BIG):
            for turn in range(20):
                writer, reader = (one, other) if turn % 2 else (other, one)
                data = bytes([turn]) * size
                os.pwrite(writer, data, turn * 7)
                wrong += os.pread(reader, size, turn * 7) != data
        check("S1 what was written there is read here, both open all the time", wrong == 0, wrong)
        os.ftruncate(one, 10)
        os.pwrite(other, b"x" * BIG, 0)
        sizes = os.fstat(one).st_size, os.stat(here + "s1").st_size, len(os.pread(one, BIG + 5, 0))
        check("S2 a size that is not published is seen", sizes == (BIG, BIG, BIG), sizes)
        os.ftruncate(one, 1000)
        sizes = os.fstat(other).st_size, os.stat(there + "s1").st_size, len(os.pread(other, BIG, 0))
        check("S3 a cut is seen by who wrote beyond it", sizes == (1000, 1000, 1000), sizes)
        os.close(os.open(here + "s1", os.O_WRONLY | os.O_TRUNC))
        check("S3 so is O_TRUNC", os.fstat(other).st_size == 0 and os.pread(other, 10, 0) == b"")


def strict_names(here, there):
    wrong = []
    for turn in range(30):
        a, b = (here, there) if turn % 2 else (there, here)
        name = "s4" + str(turn % 3)
        write(a + name, b"one")
        os.stat(b + name)
        first = os.stat(a + name).st_ino
        os.rename(b + name, b + name + ".moved")
        if not gone(a + name) or os.stat(a + name + ".moved").st_ino != first:
            wrong.append("moved")
        write(b + name, b"two")
        if os.stat(a + name).st_ino == first or read(a + name) != b"two":
            wrong.append("made again")
        os.unlink(a + name)
        os.unlink(b + name + ".moved")
        if not gone(b + name) or not gone(a + name + ".moved"):
            wrong.append("removed")
        write(a + name, b"three")
        if read(b + name) != b"three":
            wrong.append("made again here")
        os.unlink(b + name)
    check("S4 names are made, moved, removed and made again for both at once", not wrong, wrong[:5])
    os.mkdir(here + "s6")
    wrong = 0
    for turn in range(20):
        write(here + f"s6/{turn}", b"")
        wrong += len(os.listdir(there + "s6")) != turn + 1
    check("S6 a listing shows what was made there", wrong == 0, wrong)


def strict_attributes(here, there):
    write(here + "s5", b"x")
    wrong = []
    for turn in range(10):
        a, b = ((here, there) if turn % 2 else (there, here))
        os.stat(b + "s5")
        os.chmod(a + "s5", 0o600 + turn % 8)
        os.utime(a + "s5", ns=(turn, turn))
        os.setxattr(a + "s5", "user.turn", str(turn).encode())
        status = os.stat(b + "s5")
        if (status.st_mode & 0o777, status.st_mtime_ns) != (0o600 + turn % 8, turn):
            wrong.append(status)
        if os.getxattr(b + "s5", "user.turn") != str(turn).encode():
            wrong.append("attribute")
    check("S5 mode, times and extended attributes are seen at once", not wrong, wrong[:2])


def strict_maps(here, there):
    write(here + "s7", b"a" * BIG)
    read(there + "s7")
    with opened(here + "s7", os.O_RDWR) as writer:
        os.pwrite(writer, b"b" * BIG, 0)
        with opened(there + "s7", os.O_RDWR) as file, mmap.mmap(file, BIG) as pages:
            check("S7 a map over a new opening shows what was written", pages[:] == b"b" * BIG)
            pages[5000:5003] = b"new"
            pages.flush()
            os.pwrite(writer, b"sent", 9000)
            with opened(there + "s7", os.O_RDONLY) as source, opened(here + "s7-copy", os.O_CREAT | os.O_WRONLY) as sink:
                sent = os.sendfile(sink, source, 9000, 4)
            check("S7 sendfile from a new opening sends what was written", (sent, read(here + "s7-copy")) == (4, b"sent"))
            check("S7 what was synced through a map is read there", os.pread(writer, 3, 5000) == b"new")


def strict_rest(here, there):
    write(here + "s8", b"")
    with opened(here + "s8", os.O_WRONLY | os.O_APPEND) as one, opened(there + "s8", os.O_WRONLY | os.O_APPEND) as other:
        for turn in range(40):
            os.write(one if turn % 2 else other, b"%03d\n" % turn)
    check("S8 appends in turn follow each other", read(here + "s8") == b"".join(b"%03d\n" % turn for turn in range(40)))
    write(here + "s9", b"d" * BIG)
    with opened(there + "s9", os.O_RDWR) as other, opened(here + "s9", os.O_RDWR) as one:
        os.pread(other, 100, 0)
        os.posix_fallocate(one, 0, 10)
        os.pwrite(one, b"", 0)
        punch(one, 50, 100_000)
        check("S9 a hole made there is zeros here", os.pread(other, 100_100, 0) == b"d" * 50 + bytes(100_000) + b"d" * 50)


def punch(file, offset, length):
    import ctypes
    if ctypes.CDLL(None, use_errno=True).fallocate(file, 3, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def close_to_open(here, there, pair):
    wrong = []
    with opened(there + "c1", os.O_CREAT | os.O_RDWR) as kept:
        for turn in range(60):
            a, b = (here, there) if turn % 2 else (there, here)
            content = b"%05d" % turn * (50 if turn % 3 else 20_000)
            write(a + "c1", content)
            if read(b + "c1") != content:
                wrong.append(turn)
            os.pread(kept, 100, 0)
        check(f"C1 what was closed is there for an open, {pair}", not wrong, wrong[:5])
        status = os.stat(here + "c1")
        with opened(here + "c1", os.O_WRONLY) as file:
            os.pwrite(file, b"ZZZZ", 10)
        os.utime(here + "c1", ns=(status.st_atime_ns, status.st_mtime_ns))
        check(f"C1 also when its time was put back, {pair}", read(there + "c1")[10:14] == b"ZZZZ")
    with opened(here + "c2", os.O_CREAT | os.O_RDWR) as file:
        os.pwrite(file, b"1" * BIG, 0)
        os.fsync(file)
        first = read(there + "c2")
        os.pwrite(file, b"2" * BIG, 0)
        os.fsync(file)
        check(f"C2 an fsync is as a close, {pair}", (first, read(there + "c2")) == (b"1" * BIG, b"2" * BIG))
        with mmap.mmap(file, BIG) as pages:
            pages[100:103] = b"map"
            pages.flush()
    check(f"C3 what was written by a map and synced is there, {pair}", read(there + "c2")[100:103] == b"map")
    write(there + "c4", b"old")
    read(here + "c4")
    with opened(there + "c4", os.O_RDONLY) as kept:
        os.unlink(here + "c4")
        check(f"C4 opening what was removed: ENOENT, {pair}", fails_with(errno.ENOENT, os.open, there + "c4", os.O_RDONLY))
        write(here + "c4", b"new")
        check(f"C4 made again, the new file is opened, {pair}", read(there + "c4") == b"new")
        with open(f"/proc/self/fd/{kept}", "rb") as again:
            check(f"C5 also opened again by its descriptor, {pair}", again.read() == b"old")
        check(f"C5 what was open before is the old file still, {pair}", os.pread(kept, 10, 0) == b"old")


def default_names(here, there):
    wrong = 0
    for turn in range(50):
        wrong += not gone(there + f"d1-{turn}")
        write(here + f"d1-{turn}", b"x")
        wrong += gone(there + f"d1-{turn}")
    check("D1 a new name is seen at once, after a look that found nothing", wrong == 0, wrong)
    check("D1 and in a listing", {f"d1-{turn}" for turn in range(50)} <= set(os.listdir(there)))
    os.stat(there + "d1-0")
    os.unlink(here + "d1-0")
    check("D2 a removed name is gone within the time-out", within(TIMEOUT_S + SLACK_S, lambda: gone(there + "d1-0")))
    check("D2 and from a listing at once", "d1-0" not in os.listdir(there))
    write(here + "d2", b"1")
    old = os.stat(there + "d2").st_ino
    os.unlink(here + "d2")
    write(here + "d2", b"22")
    check("D3 removed and made again: opened, it is the new file at once", read(there + "d2") == b"22")
    check("D3 stat shows the new one within the time-out",
          within(TIMEOUT_S + SLACK_S, lambda: (os.stat(there + "d2").st_ino != old, os.stat(there + "d2").st_size) == (True, 2)))
    write(here + "d4", b"1")
    os.stat(there + "d4")
    os.rename(here + "d4", here + "d4-new")
    check("D4 a moved name: the new one at once, the old one gone within the time-out",
          read(there + "d4-new") == b"1" and within(TIMEOUT_S + SLACK_S, lambda: gone(there + "d4")))


def default_attributes(here, there):
    write(here + "d5", b"x")
    os.stat(there + "d5")
    os.chmod(here + "d5", 0o640)
    os.truncate(here + "d5", 77)
    os.utime(here + "d5", ns=(5, 5))

    def seen():
        status = os.stat(there + "d5")
        return (status.st_mode & 0o777, status.st_size, status.st_mtime_ns) == (0o640, 77, 5)

    check("D5 attributes are seen within the time-out", within(TIMEOUT_S + SLACK_S, seen))
    os.setxattr(here + "d5", "user.a", b"1")
    check("D6 an extended attribute at once", os.getxattr(there + "d5", "user.a") == b"1")
    os.setxattr(here + "d5", "user.a", b"2")
    check("D6 and its change", os.getxattr(there + "d5", "user.a") == b"2")


def default_content(here, there):
    write(here + "d7", b"a" * BIG)
    with opened(here + "d7", os.O_RDWR) as writer, opened(there + "d7", os.O_RDONLY) as reader, \
            opened(there + "d7", os.O_RDONLY | os.O_DIRECT) as direct:
        os.pread(reader, BIG, 0)
        os.pwrite(writer, b"more", BIG)
        check("D7 an open reader sees a larger size within the time-out", within(TIMEOUT_S + SLACK_S, lambda: os.fstat(reader).st_size == BIG + 4))
        os.pread(reader, BIG, 0)
        os.pwrite(writer, b"bbbb", 100)
        buffer = mmap.mmap(-1, 4096)
        os.preadv(direct, [buffer], 0)
        check("D8 bytes by O_DIRECT are never old", buffer[100:104] == b"bbbb")
        check("D9 an open reader sees what was written in place once it is published and the time-out is over",
              within(PUBLISHED_S + TIMEOUT_S + SLACK_S, lambda: os.pread(reader, 4, 100) == b"bbbb"))
    write(here + "d10", b"kept")
    with opened(there + "d10", os.O_RDWR) as file:
        os.unlink(here + "d10")
        os.pwrite(file, b"more", 4)
        check("D10 what is open here and removed there is read and written on", (os.pread(file, 9, 0), os.fstat(file).st_nlink) == (b"keptmore", 0))
    os.symlink("one", here + "d11")
    os.readlink(there + "d11")
    os.unlink(here + "d11")
    os.symlink("two", here + "d11")
    check("D11 a link that was made again shows the new target within the time-out", within(TIMEOUT_S + SLACK_S, lambda: os.readlink(there + "d11") == "two"))


def default_permissions(here, there):
    """Root is asked nothing, so another user asks."""
    write(here + "d12", b"x")
    os.chmod(here + "d12", 0o644)

    def readable():
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                os.close(os.open(there + "d12", os.O_RDONLY))
                os._exit(0)
            except OSError:
                os._exit(1)
        return os.waitpid(child, 0)[1] == 0

    first = within(TIMEOUT_S + SLACK_S, readable)
    os.chmod(here + "d12", 0o600)
    check("D12 permissions bind within the time-out", first and within(TIMEOUT_S + SLACK_S, lambda: not readable()))
    check("D12 the mode says so", stat.S_IMODE(os.stat(there + "d12").st_mode) == 0o600)


os.umask(0o022)
for checks in (strict_content, strict_names, strict_attributes, strict_maps, strict_rest):
    checks(STRICT, STRICT_OTHER)
close_to_open(STRICT, STRICT_OTHER, "asking always")
for checks in (default_names, default_attributes, default_content, default_permissions):
    checks(DEFAULT, DEFAULT_OTHER)
close_to_open(DEFAULT, DEFAULT_OTHER, "default time-outs")
finish()
