"""Attributes and data as POSIX and Linux have them, at one mount and at two. Run by root. Usage: posix.py MOUNT OTHER-MOUNT"""

import ctypes
import errno
import mmap
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

from checks import NOBODY, as_nobody, check, fails_with, finish, read, write

LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20
HERE, THERE = sys.argv[1], sys.argv[2]
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def at(name):
    return os.path.join(HERE, name)


def there(name):
    return os.path.join(THERE, name)


def as_member(groups, call):
    """Runs `call` as an ordinary user with these supplementary groups."""
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            call()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def eventually(held):
    """Whether it holds within some seconds, for what is remembered for a while."""
    deadline = time.monotonic() + 10
    while not held():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def groups_and_bits():
    write(at("grouped"), b"g")
    os.chown(at("grouped"), 1, 4242)
    os.chmod(at("grouped"), 0o640)
    reads = lambda: open(at("grouped"), "rb").close()
    check("a supplementary group reads", as_member([77, 4242], reads) and not as_member([77], reads))
    os.chown(at("grouped"), NOBODY, 4242)
    as_member([4242], lambda: os.chmod(at("grouped"), 0o2755))
    check("a member keeps set-group-id", stat.S_IMODE(os.stat(at("grouped")).st_mode) == 0o2755)
    as_member([77], lambda: os.chmod(at("grouped"), 0o2755))
    check("others do not", stat.S_IMODE(os.stat(at("grouped")).st_mode) == 0o755)
    check("a group of the owner's is given", as_member([77], lambda: os.chown(at("grouped"), -1, 77)) and not as_member([77], lambda: os.chown(at("grouped"), -1, 78)))
    os.mkdir(at("shared"), 0o2777)
    os.chmod(at("shared"), 0o2777)
    os.chown(at("shared"), 0, 4242)
    os.mkdir(at("shared/sub"))
    check("a set-group-id directory gives group and bit", (os.stat(at("shared/sub")).st_gid, os.stat(at("shared/sub")).st_mode & 0o2000) == (4242, 0o2000))
    os.mkdir(at("sticky"))
    os.chmod(at("sticky"), 0o1777)
    write(at("sticky/root"), b"")
    check("a sticky directory keeps the files of others", not as_nobody(lambda: os.unlink(at("sticky/root"))) and not as_nobody(lambda: os.rename(at("sticky/root"), at("sticky/x"))))


def attributes():
    write(at("x"), b"x")
    os.chmod(at("x"), 0o644)
    os.symlink("x", at("x-link"))
    os.mkfifo(at("x-pipe"))
    setxattr = lambda path, name, value=b"v", **named: os.setxattr(at(path), name, value, **named)
    check("user.* of a link or pipe: EPERM", fails_with(errno.EPERM, setxattr, "x-link", "user.a", follow_symlinks=False) and fails_with(errno.EPERM, setxattr, "x-pipe", "user.a"))
    setxattr("x", "user.a")
    check("user.* is read by who reads the file, and set by who writes it", as_nobody(lambda: os.getxattr(at("x"), "user.a")) and not as_nobody(lambda: setxattr("x", "user.a")))
    setxattr("x", "trusted.t")
    hidden = lambda: os._exit(0 if os.listxattr(at("x")) == ["user.a"] and fails_with(errno.ENODATA, os.getxattr, at("x"), "trusted.t") else 1)
    check("trusted.* is for root: listed, and hidden from others", "trusted.t" in os.listxattr(at("x")) and as_nobody(hidden))
    check("nor set by others", not as_nobody(lambda: setxattr("x", "trusted.u")))
    check("other names are refused", fails_with(errno.EOPNOTSUPP, setxattr, "x", "system.other") and fails_with(errno.EOPNOTSUPP, setxattr, "x", "nothing"))
    check("XATTR_REPLACE of what is not there", fails_with(errno.ENODATA, os.setxattr, at("x"), "user.z", b"", os.XATTR_REPLACE))
    setxattr("x", "user.big", b"b" * 65536)
    check("a value of 64 KiB, and not more", os.getxattr(at("x"), "user.big") == b"b" * 65536 and fails_with(errno.E2BIG, setxattr, "x", "user.big", b"b" * 65537))
    name = "user." + "n" * 250
    setxattr("x", name)
    check("a name of 255 bytes, and not more", name in os.listxattr(at("x")) and fails_with(errno.ERANGE, setxattr, "x", name + "n"))
    setxattr("x", "user.empty", b"")
    check("an empty value is there", os.getxattr(at("x"), "user.empty") == b"" and "user.empty" in os.listxattr(at("x")))
    check("the other mount sees them", set(os.listxattr(there("x"))) == set(os.listxattr(at("x"))))


def capabilities():
    """security.capability makes a program privileged, so it must not outlive a change of the program."""
    ways = {
        "writing": lambda: write_in_place(at("cap")),
        "truncating": lambda: os.truncate(at("cap"), 1),
        "a change of owner": lambda: os.chown(at("cap"), 1, 1),
        "writing past the cache": lambda: write_in_place(at("cap"), os.O_DIRECT),
    }
    for name, way in ways.items():
        write(at("cap"), b"program")
        os.setxattr(at("cap"), "security.capability", CAPABILITY)
        kept = os.getxattr(at("cap"), "security.capability") == CAPABILITY
        way()
        check(f"a file capability falls on {name}", kept and fails_with(errno.ENODATA, os.getxattr, at("cap"), "security.capability"))
    check("others do not set one", not as_nobody(lambda: os.setxattr(at("cap"), "security.capability", CAPABILITY)))


def write_in_place(path, flags=0):
    file = os.open(path, os.O_WRONLY | flags)
    os.pwrite(file, mmap.mmap(-1, 4096)[:4096] if not flags else mmap.mmap(-1, 4096), 0)
    os.close(file)


def changed(path, call):
    """Which of the three times a call changes, as letters."""
    before = os.lstat(path)
    time.sleep(0.002)
    call()
    after = os.lstat(path)
    pairs = zip("amc", (before.st_atime_ns, before.st_mtime_ns, before.st_ctime_ns), (after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns))
    return "".join(letter for letter, old, new in pairs if new > old)


def times():
    for size, name in ((100, "small"), (3 * MIB, "large")):
        path = at(f"t-{name}")
        write(path, b"t" * size)
        check(f"{name}: the first reading after a change is told", changed(path, lambda: read(path)) == "a", changed(path, lambda: None))
        check(f"{name}: further ones are not", changed(path, lambda: read(path)) == "")
        os.utime(path, ns=(10**18, os.stat(path).st_mtime_ns))
        read(path)
        # From the page cache: the kernel asks for the time when it trusts its own no more.
        check(f"{name}: one after a change or a day is", eventually(lambda: os.stat(path).st_atime_ns > 10**18))
        for what, call, told in (
            ("chmod", lambda: os.chmod(path, 0o600), "c"),
            ("chown", lambda: os.chown(path, 1, 1), "c"),
            ("link", lambda: os.link(path, path + "-2"), "c"),
            ("unlink of a further name", lambda: os.unlink(path + "-2"), "c"),
            ("setxattr", lambda: os.setxattr(path, "user.t", b""), "c"),
            ("removexattr", lambda: os.removexattr(path, "user.t"), "c"),
            ("rename", lambda: (os.rename(path, path + "-3"), os.rename(path + "-3", path)), "c"),
            ("truncate", lambda: os.truncate(path, size - 1), "mc"),
            ("truncate to the same size", lambda: os.truncate(path, size - 1), "mc"),
            ("write", lambda: write_in_place(path), "mc"),
            ("opening for writing", lambda: os.close(os.open(path, os.O_WRONLY)), ""),
            ("stat", lambda: os.stat(path), ""),
        ):
            told_now = changed(path, call)
            check(f"{name}: {what} changes {told or 'nothing'}", told_now == told, told_now)
    os.mkdir(at("t-dir"))
    inside = at("t-dir/f")
    for what, call in (("creation", lambda: write(inside, b"")), ("link", lambda: os.link(inside, inside + "2")), ("rename", lambda: os.rename(inside, inside + "3")), ("unlink", lambda: os.unlink(inside + "2")), ("mkdir", lambda: os.mkdir(inside + "4")), ("rmdir", lambda: os.rmdir(inside + "4"))):
        told_now = changed(at("t-dir"), call)
        check(f"{what} changes the directory's times", told_now == "mc", told_now)
    check("listing changes its access time", changed(at("t-dir"), lambda: os.listdir(at("t-dir"))) == "a")
    os.utime(inside + "3", ns=(1, 1_234_567_891_987_654_321))
    check("nanoseconds are kept, here and there", os.stat(inside + "3").st_mtime_ns == os.stat(there("t-dir/f3")).st_mtime_ns == 1_234_567_891_987_654_321)


def special_files():
    os.mkfifo(at("pipe"))
    child = os.fork()
    if child == 0:
        write(at("pipe"), b"through")
        os._exit(0)
    check("a pipe", read(at("pipe")) == b"through")
    os.waitpid(child, 0)
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    # The address has at most 107 bytes, and the mount may lie deeper.
    os.chdir(HERE)
    server.bind("socket")
    server.listen()
    client.connect("socket")
    os.chdir("/")
    check("a socket", stat.S_ISSOCK(os.stat(at("socket")).st_mode))
    os.mknod(at("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    check("a device node is there and not opened", stat.S_ISCHR(os.stat(at("null")).st_mode) and fails_with(errno.EACCES, os.open, at("null"), os.O_RDONLY))
    check("others make none", not as_nobody(lambda: os.mknod(at("null2"), stat.S_IFCHR, os.makedev(1, 3))))


def named(file, name):
    """Links an open file. (Python's os.link does not follow the link that /proc has.)"""
    here, follow = -100, 0x400
    if LIBC.linkat(here, f"/proc/self/fd/{file}".encode(), here, at(name).encode(), follow) != 0:
        raise OSError(ctypes.get_errno(), name)


def nameless_files():
    os.mkdir(at("n"))
    os.umask(0o027)
    for size in (10, 3 * MIB):
        file = os.open(at("n"), os.O_TMPFILE | os.O_RDWR, 0o666)
        os.write(file, b"n" * size)
        told = os.fstat(file)
        check(f"O_TMPFILE, {size} bytes: no name", (told.st_nlink, stat.S_IMODE(told.st_mode), told.st_size) == (0, 0o640, size) and os.listdir(at("n")) == [])
        named(file, f"n-{size}")
        check("linked, it is there, here and there", read(at(f"n-{size}")) == read(there(f"n-{size}")) == b"n" * size and os.fstat(file).st_nlink == 1)
        os.unlink(at(f"n-{size}"))
        check("unlinked again, it can be linked no more", fails_with(errno.ENOENT, named, file, "n-again"))
        check("and is whole as long as it is open", os.pread(file, size + 1, 0) == b"n" * size)
        os.close(file)
    os.umask(0o022)
    file = os.open(at("n"), os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    check("O_TMPFILE | O_EXCL is never linked", fails_with(errno.ENOENT, named, file, "n-exclusive"))
    os.close(file)
    check("O_TMPFILE for reading: EINVAL", fails_with(errno.EINVAL, os.open, at("n"), os.O_TMPFILE | os.O_RDONLY))
    check("others make none in a directory of root's", not as_nobody(lambda: os.open(at("n"), os.O_TMPFILE | os.O_RDWR)))


def refused():
    """What is not offered says so."""
    file = os.open(at("refused"), os.O_CREAT | os.O_RDWR)
    os.write(file, b"r" * 10000)
    for name, mode in (("COLLAPSE_RANGE", 0x08), ("INSERT_RANGE", 0x20), ("UNSHARE_RANGE", 0x40)):
        result = LIBC.fallocate(file, mode, ctypes.c_long(0), ctypes.c_long(4096))
        check(f"{name}: EOPNOTSUPP", result == -1 and ctypes.get_errno() == errno.EOPNOTSUPP)
    os.close(file)
    check("and nothing has changed", read(at("refused")) == b"r" * 10000)


def server_copies():
    content = os.urandom(5 * MIB + 777)
    write(at("source"), content)
    source = os.open(at("source"), os.O_RDONLY)
    target = os.open(at("target"), os.O_CREAT | os.O_RDWR)
    copied = os.copy_file_range(source, target, 3 * MIB, 1000, 5)
    expected = bytes(5) + content[1000 : 1000 + copied]
    check("copy_file_range of any range", copied == 3 * MIB and os.pread(target, 4 * MIB, 0) == expected and os.fstat(target).st_size == len(expected))
    check("it is seen at the other mount", read(there("target")) == expected)
    check("at the end there is nothing", os.copy_file_range(source, target, 10, len(content)) == 0)
    check("over itself: EINVAL", fails_with(errno.EINVAL, os.copy_file_range, target, target, 1000, 0, 10))
    check("to what is open for reading: EBADF", fails_with(errno.EBADF, os.copy_file_range, target, source, 10))
    os.close(target)
    mapped = mmap.mmap(source, 0, prot=mmap.PROT_READ)
    target = os.open(at("target"), os.O_RDWR)
    shown = mmap.mmap(target, 0)
    before = shown[:100]
    os.copy_file_range(source, target, 100, 0, 0)
    check("a map of the copy shows it", before != content[:100] and shown[:100] == content[:100] == mapped[:100])
    os.chmod(at("target"), 0o6777)
    as_nobody(lambda: os.copy_file_range(os.open(at("source"), os.O_RDONLY), os.open(at("target"), os.O_WRONLY), 10))
    check("set-id bits fall on it", stat.S_IMODE(os.stat(at("target")).st_mode) == 0o777)
    run = subprocess.run(["cp", "--reflink=never", at("source"), at("by-cp")])
    check("cp --reflink=never", run.returncode == 0 and read(there("by-cp")) == content)


def names_and_sizes():
    name = "\u00e9" * 127 + "n"
    write(at(name), b"n")
    check("a name of 255 bytes", len(name.encode()) == 255 and read(there(name)) == b"n" and name in os.listdir(HERE))
    deep = HERE + "/" + "p"
    os.mkdir(deep)
    while len(deep) + 202 < 4094:
        deep += "/" + "d" * 200
        os.mkdir(deep)
    longest = deep + "/" + "f" * (4095 - len(deep) - 1)
    write(longest, b"deep")
    check("a path of 4,095 bytes, and not more", len(longest) == 4095 and read(longest) == b"deep" and fails_with(errno.ENAMETOOLONG, os.stat, longest + "f"))
    file = os.open(at("largest"), os.O_CREAT | os.O_RDWR)
    largest = (1 << 63) - 1
    os.pwrite(file, b"last", largest - 4)
    check("a file of 8 EiB less a byte", os.fstat(file).st_size == largest and os.pread(file, 4, largest - 4) == b"last" and os.pread(file, 10, 1 << 40) == bytes(10))
    # The kernel refuses an end that it cannot count to; what comes from native clients is refused as EFBIG.
    check("and no larger", fails_with(errno.EINVAL, os.pwrite, file, b"x", largest) or fails_with(errno.EFBIG, os.pwrite, file, b"x", largest))
    os.close(file)
    os.truncate(at("largest"), largest)
    check("the other mount sees its end", os.stat(there("largest")).st_size == largest)
    os.unlink(at("largest"))


def direct():
    file = os.open(at("direct"), os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    os.pwrite(file, b"0123456789", 3)
    check("O_DIRECT needs no alignment", os.pread(file, 7, 5) == b"2345678" and os.fstat(file).st_size == 13)
    other = os.open(there("direct"), os.O_RDONLY | os.O_DIRECT)
    os.pwrite(file, b"changed", 3)
    check("what it wrote is read past the cache at once, there", os.pread(other, 20, 0) == bytes(3) + b"changed789")


def maps():
    write(at("map"), b"m" * (2 * MIB))
    file = os.open(at("map"), os.O_RDWR)
    shared, private = mmap.mmap(file, 0), mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE)
    private[MIB : MIB + 7] = b"private"
    shared[:6] = b"shared"
    check("a private map is its own", shared[MIB : MIB + 7] == b"m" * 7 and os.pread(file, 7, MIB) == b"m" * 7)
    check("a shared map is the file's", os.pread(file, 6, 0) == b"shared" and private[:6] == b"shared")
    shared.flush()
    check("msync shows it to the other mount", read(there("map"))[:6] == b"shared")
    os.truncate(at("map"), 4096)
    check("within the file a cut map goes on", shared[:6] == b"shared")
    check("beyond its end: SIGBUS", ends_by_signal(lambda: shared[MIB]) == signal.SIGBUS)
    os.truncate(at("map"), 2 * MIB)
    check("what was cut is zeros when the file grows again", shared[MIB : MIB + 100] == bytes(100) and shared[:6] == b"shared")


def ends_by_signal(call):
    child = os.fork()
    if child == 0:
        call()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def unlinked():
    for size in (100, 3 * MIB):
        content = os.urandom(size)
        write(at("doomed"), content)
        file = os.open(there("doomed"), os.O_RDWR)
        os.unlink(at("doomed"))
        check(f"{size} bytes unlinked here while open there", os.pread(file, size, 0) == content)
        os.pwrite(file, b"written", 10)
        check("and written", os.pread(file, 7, 10) == b"written" and os.fstat(file).st_nlink == 0)
        write(at("doomed"), b"another")
        check("its name is free", os.pread(file, 7, 10) == b"written" and read(at("doomed")) == b"another")
        os.close(file)
        os.unlink(at("doomed"))


def space():
    before = os.statvfs(HERE)
    check("statfs tells of inodes", before.f_files > before.f_ffree > 0 and before.f_favail == before.f_ffree)
    check("its space is that of a file system", 0 < before.f_bavail <= before.f_bfree <= before.f_blocks)
    for number in range(300):
        write(at(f"many-{number}"), b"")
    used = lambda space: space.f_files - space.f_ffree
    # What was removed before may be going still.
    check("files that are made are counted", eventually(lambda: used(os.statvfs(HERE)) >= used(before) + 250))
    # Whoever else uses the device may free more at the same moment.
    for _ in range(3):
        before = os.statvfs(HERE)
        write(at("space"), os.urandom(64 * MIB))
        taken = lambda: (before.f_bfree - os.statvfs(HERE).f_bfree) * before.f_frsize
        if eventually(lambda: taken() >= 32 * MIB):
            break
    else:
        check("bytes that are written are not free any more", False, taken())


PARTS = groups_and_bits, attributes, capabilities, times, special_files, nameless_files, refused, server_copies, names_and_sizes, direct, maps, unlinked, space

for part in PARTS:
    try:
        part()
    except OSError as error:
        check(part.__name__, False, repr(error))
finish()
