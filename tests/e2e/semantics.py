"""What programs may rely on at one mount, where the kernel's side of FUSE matters. Run by root. Usage: semantics.py MOUNT"""

import ctypes
import errno
import fcntl
import mmap
import os
import sys
import threading

from checks import as_nobody, check, fails_with, finish, read, write

LIBC = ctypes.CDLL(None, use_errno=True)
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


def at(name):
    return os.path.join(sys.argv[1], name)


def set_id_bits():
    """They fall when somebody without privilege changes the file, and stay when root writes."""
    ways = {
        "writing": lambda: with_file(os.O_WRONLY, lambda file: os.write(file, b"x")),
        "appending": lambda: with_file(os.O_WRONLY | os.O_APPEND, lambda file: os.write(file, b"x")),
        "writing past the cache": lambda: with_file(os.O_WRONLY | os.O_DIRECT, lambda file: os.write(file, mmap.mmap(-1, 4096))),
        "opening with O_TRUNC": lambda: with_file(os.O_WRONLY | os.O_TRUNC, lambda file: None),
        "truncating": lambda: os.truncate(at("s"), 1),
        "punching a hole": lambda: with_file(os.O_WRONLY, lambda file: fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 5)),
    }
    for name, way in ways.items():
        write(at("s"), b"abc" * 5000)
        os.chmod(at("s"), 0o6777)
        check(f"set-id bits fall on {name}", as_nobody(way) and os.stat(at("s")).st_mode & 0o7777 == 0o777)
    os.chmod(at("s"), 0o6777)
    os.chown(at("s"), 1, 1)
    check("set-id bits fall on chown", os.stat(at("s")).st_mode & 0o7777 == 0o777)
    os.chmod(at("s"), 0o6777)
    with open(at("s"), "ab") as file:
        file.write(b"1")
    check("root's writing keeps set-id bits", os.stat(at("s")).st_mode & 0o6000 == 0o6000)


def fallocate(file, mode, offset, length):
    if LIBC.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)) == -1:
        raise OSError(ctypes.get_errno(), "fallocate")


def with_file(flags, work):
    file = os.open(at("s"), flags)
    work(file)
    os.close(file)


def changes_before_close():
    """tar, cp -p and install set times and modes of what they wrote before they close it."""
    when = (10**18, 10**18 + 5)
    for size in (0, 3, 5 << 20):
        for way in ("handle", "path"):
            name = at(f"kept-{size}-{way}")
            file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
            os.write(file, b"x" * size)
            os.utime(file if way == "handle" else name, ns=when)
            before = os.fstat(file).st_mtime_ns
            os.close(file)
            check(f"a time set by {way} after writing {size} bytes stays", (before, os.stat(name).st_mtime_ns) == (when[1], when[1]))

    def set_mode_before_close():
        file = os.open(at("kept-mode"), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        os.write(file, b"program")
        os.fchmod(file, 0o6755)
        os.close(file)

    check("a mode set after writing stays", as_nobody(set_mode_before_close) and os.stat(at("kept-mode")).st_mode & 0o7777 == 0o6755)


def appends_by_threads():
    files = [os.open(at("log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(4)]

    def work(file, letter):
        for _ in range(200):
            os.write(file, (letter * 10).encode())

    threads = [threading.Thread(target=work, args=(file, "abcd"[index])) for index, file in enumerate(files)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = read(at("log"))
    check("appends are whole", len(content) == 8000 and all(len(set(content[i : i + 10])) == 1 for i in range(0, 8000, 10)))


def maps_and_holes():
    file = os.open(at("mm"), os.O_CREAT | os.O_RDWR)
    os.ftruncate(file, 1 << 20)
    with mmap.mmap(file, 1 << 20) as mapped:
        mapped[12345:12350] = b"hello"
        mapped.flush()
    os.close(file)
    check("shared memory maps", read(at("mm"))[12345:12350] == b"hello")
    file = os.open(at("mm"), os.O_RDONLY)
    check("SEEK_DATA and SEEK_HOLE", os.lseek(file, 0, os.SEEK_DATA) == 12288 and os.lseek(file, 12288, os.SEEK_HOLE) == 16384)
    target = os.open(at("cfr"), os.O_CREAT | os.O_WRONLY)
    copied = os.copy_file_range(file, target, 1 << 20, offset_src=0)
    os.close(target)
    check("copy_file_range", copied > 0 and read(at("cfr")) == read(at("mm"))[:copied])
    file = os.open(at("hole"), os.O_CREAT | os.O_RDWR)
    os.pwrite(file, b"0123456789", 1_000_000)
    check("a hole reads as zeros", os.fstat(file).st_size == 1_000_010 and os.pread(file, 2_000_000, 0) == bytes(1_000_000) + b"0123456789")
    os.close(file)


def open_files():
    file = os.open(at("gone"), os.O_CREAT | os.O_RDWR)
    os.write(file, b"x")
    os.unlink(at("gone"))
    os.write(file, b"y")
    check("an unlinked open file goes on", os.fstat(file).st_nlink == 0 and os.pread(file, 9, 0) == b"xy")
    os.close(file)
    write(at("ro"), b"fixed")
    file = os.open(at("ro"), os.O_RDONLY)
    check("a read-only descriptor does not write", fails_with(errno.EBADF, os.write, file, b"x") and read(at("ro")) == b"fixed")
    os.close(file)
    file = os.open(at("ro"), os.O_CREAT | os.O_RDWR)
    check("O_CREAT of what exists keeps it", os.fstat(file).st_size == 5)
    os.close(file)
    check("O_EXCL of what exists fails", fails_with(errno.EEXIST, os.open, at("ro"), os.O_CREAT | os.O_EXCL | os.O_RDWR))


def permissions():
    write(at("private"), b"root's")
    os.chmod(at("private"), 0o600)
    check("others do not read mode 0600", as_nobody(lambda: expect(errno.EACCES, os.open, at("private"), os.O_RDONLY)))
    os.mkdir(at("closed"), 0o700)
    write(at("closed/f"), b"x")
    check("others do not enter mode 0700", as_nobody(lambda: expect(errno.EACCES, os.stat, at("closed/f"))))
    check("others do not remove", as_nobody(lambda: expect(errno.EACCES, os.unlink, at("closed/f"))))


def expect(number, call, *arguments):
    if not fails_with(number, call, *arguments):
        raise AssertionError(f"{call.__name__} did not fail with {errno.errorcode[number]}")


def extended_attributes():
    path = at("mm")
    os.setxattr(path, "user.a", b"v" * 100)
    check("extended attributes", os.getxattr(path, "user.a") == b"v" * 100 and os.listxattr(path) == ["user.a"])
    buffer = ctypes.create_string_buffer(10)
    result = LIBC.getxattr(path.encode(), b"user.a", buffer, 10)
    check("too small a buffer: ERANGE", result == -1 and ctypes.get_errno() == errno.ERANGE)
    result = LIBC.getxattr(path.encode(), b"system.posix_acl_access", buffer, 10)
    check("no access control list: ENODATA", result == -1 and ctypes.get_errno() == errno.ENODATA)
    check("XATTR_CREATE of what exists", fails_with(errno.EEXIST, os.setxattr, path, "user.a", b"", os.XATTR_CREATE))


def renames_with_flags():
    def rename(flag):
        ctypes.set_errno(0)
        return LIBC.renameat2(-100, at("r1").encode(), -100, at("r2").encode(), flag), ctypes.get_errno()

    write(at("r1"), b"1")
    write(at("r2"), b"2")
    check("RENAME_NOREPLACE", rename(RENAME_NOREPLACE) == (-1, errno.EEXIST))
    check("RENAME_EXCHANGE", rename(RENAME_EXCHANGE)[0] == 0 and read(at("r1")) == b"2")
    check("RENAME_WHITEOUT is refused", rename(RENAME_WHITEOUT)[0] == -1)


def sizes_and_times():
    file = os.open(at("fa"), os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(file, 0, 5000)
    check("fallocate", os.fstat(file).st_size == 5000)
    fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 9000)
    check("fallocate that keeps the size", os.fstat(file).st_size == 5000)
    os.fsync(file)
    os.close(file)
    directory = os.open(sys.argv[1], os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    os.utime(at("fa"), ns=(-1_500_000_000, 2_000_000_001))
    status = os.stat(at("fa"))
    check("times before 1970, in nanoseconds", (status.st_atime_ns, status.st_mtime_ns) == (-1_500_000_000, 2_000_000_001))
    space = os.statvfs(sys.argv[1])
    check("statvfs", space.f_namemax == 255 and space.f_blocks > 0 and 0 < space.f_bavail <= space.f_blocks)
    for size in (0, 1, 100_000, 9_000_001, 5):
        os.truncate(at("fa"), size)
        check(f"truncate to {size}", len(read(at("fa"))) == size == os.stat(at("fa")).st_size)


def large_transfers():
    content = os.urandom(5 << 20)
    write(at("big"), content)
    check("5 MiB in one write and one read", read(at("big")) == content)
    source, target = mmap.mmap(-1, 4 << 20), mmap.mmap(-1, 4 << 20)
    source.write(content[: 4 << 20])
    file = os.open(at("direct"), os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    os.write(file, source)
    os.preadv(file, [target], 0)
    os.close(file)
    check("O_DIRECT", target[:] == content[: 4 << 20])


def directories():
    os.mkdir(at("dir"))
    for index in range(2500):
        os.close(os.open(at(f"dir/{index}"), os.O_CREAT | os.O_WRONLY))
    check("a listing has all", sorted(int(entry.name) for entry in os.scandir(at("dir"))) == list(range(2500)))
    for entry in os.scandir(at("dir")):
        os.unlink(entry.path)
    check("removing while listing", os.listdir(at("dir")) == [])
    os.rmdir(at("dir"))
    check("a name of 256 bytes", fails_with(errno.ENAMETOOLONG, open, at("n" * 256), "w"))
    os.mknod(at("dev"), 0o20600, os.makedev(300, 70000))
    check("device numbers", os.stat(at("dev")).st_rdev == os.makedev(300, 70000))


def locks():
    first, second = (os.open(at("fa"), os.O_RDWR) for _ in range(2))
    fcntl.flock(first, fcntl.LOCK_EX)
    check("flock", fails_with(errno.EWOULDBLOCK, fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB))
    os.close(first)
    os.close(second)


for part in (
    set_id_bits,
    changes_before_close,
    appends_by_threads,
    maps_and_holes,
    open_files,
    permissions,
    extended_attributes,
    renames_with_flags,
    sizes_and_times,
    large_transfers,
    directories,
    locks,
):
    part()
finish()
