"""A large directory: every entry once, positions that stay, inode numbers that stay. Usage: positions.py MOUNT ENTRIES [INODES-FILE]

Makes the directory if it is not there. With a file: remembers inode numbers in it, or, if it is there, compares with it.
"""

import ctypes
import json
import os
import resource
import sys
import time

from checks import check, finish

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = LIBC.readdir64.restype = ctypes.c_void_p
LIBC.telldir.restype = ctypes.c_long
LIBC.readdir64.argtypes = LIBC.telldir.argtypes = LIBC.rewinddir.argtypes = LIBC.closedir.argtypes = [ctypes.c_void_p]
LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
NAME = 19  # Where the name begins in a struct dirent64.
ENTRIES = int(sys.argv[2])
MAKERS = 4


class Stream:
    """A directory stream of the C library."""

    def __init__(self, path):
        self.dir = LIBC.opendir(os.fsencode(path))

    def names(self, most=1 << 62):
        while most > 0:
            entry = LIBC.readdir64(self.dir)
            if not entry:
                return
            most -= 1
            yield ctypes.string_at(entry + NAME).decode()

    def tell(self):
        return LIBC.telldir(self.dir)

    def seek(self, position):
        LIBC.seekdir(self.dir, position)

    def rewind(self):
        LIBC.rewinddir(self.dir)


def make(path):
    """All entries, by several processes at once."""
    os.mkdir(path)
    children = []
    for share in range(MAKERS):
        child = os.fork()
        if child == 0:
            for number in range(share, ENTRIES, MAKERS):
                os.mknod(os.path.join(path, str(number)))
            os._exit(0)
        children.append(child)
    check("all entries are made", all(os.waitpid(child, 0)[1] == 0 for child in children))


def positions(path):
    """While others come and go."""
    stream = Stream(path)
    first = list(stream.names(700))
    position = stream.tell()
    following = list(stream.names(300))
    beyond = stream.tell()
    rest = list(stream.names())
    for name in first[100:200] + rest[:100]:
        os.unlink(os.path.join(path, name))
    for number in range(200):
        open(os.path.join(path, f"new-{number}"), "w").close()
    stream.seek(position)
    again = [name for name in stream.names() if not name.startswith("new-")]
    check("a position leads to the entry after it, whatever comes and goes", again[:300] == following, (again[:3], following[:3]))
    check("and all that stayed comes after it, in the same order", again == following + rest[100:])
    for name in following:
        os.unlink(os.path.join(path, name))
    stream.seek(position)
    check("also when that entry is gone", next(name for name in stream.names() if not name.startswith("new-")) == rest[100])
    stream.seek(beyond)
    check("a later position", next(name for name in stream.names() if not name.startswith("new-")) == rest[100])
    stream.rewind()
    names = list(stream.names())
    check("from the beginning everything is there once", sorted(names) == sorted(os.listdir(path) + [".", ".."]) and len(set(names)) == len(names))
    LIBC.closedir(stream.dir)


def large(path):
    began = time.monotonic()
    names = [name for name in Stream(path).names() if name not in (".", "..")]
    took = time.monotonic() - began
    check(f"{len(names)} entries, each once", len(names) == ENTRIES == len(set(names)), len(set(names)))
    again = time.monotonic()
    with os.scandir(path) as entries:
        numbers = {entry.inode() for entry in entries}
    check("their numbers differ", len(numbers) == ENTRIES)
    print(f"ok   listing takes {took:.1f} s, again {time.monotonic() - again:.1f} s; memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB in this process")
    return names


def numbers(path, names, file):
    """Numbers of some, and of their directory."""
    now = {name: os.stat(os.path.join(path, name)).st_ino for name in sorted(names)[:: max(1, ENTRIES // 500)]}
    now["."] = os.stat(path).st_ino
    if os.path.exists(file):
        with open(file) as source:
            check("inode numbers are what they were", json.load(source) == now)
    else:
        with open(file, "w") as target:
            json.dump(now, target)


PATH = os.path.join(sys.argv[1], "many")
if not os.path.exists(PATH):
    began = time.monotonic()
    make(PATH)
    print(f"ok   making takes {time.monotonic() - began:.1f} s")
found = large(PATH)
if len(sys.argv) > 3:
    numbers(PATH, found, sys.argv[3])
else:
    positions(PATH)
finish()
