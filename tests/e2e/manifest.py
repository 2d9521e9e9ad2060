"""Prints what a copy of a tree must keep, one sorted line per entry: type, mode, owner, size, times in nanoseconds, content, links,
extended attributes. Usage: manifest.py DIRECTORY [--without-directory-times]"""

import hashlib
import os
import stat
import sys

BLOCK_BYTES = 1 << 20


def checksum(path):
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def extended(path):
    """The user's extended attributes. A symbolic link has none."""
    names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
    return ",".join(f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in names)


def entries(root):
    """Every path below the root and the root itself, in an order that does not depend on the file system."""
    yield root
    for directory, names, files in os.walk(os.fsencode(root)):
        names.sort()
        for name in sorted(names + files):
            yield os.path.join(directory, name)


def line(path, shown, first_names, directory_times):
    """One entry. `first_names` knows under which name an inode was seen first: that is how hard links are compared."""
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    fields = [repr(shown), oct(status.st_mode), f"{status.st_uid}:{status.st_gid}"]
    if kind != stat.S_IFDIR:
        fields += [f"links={status.st_nlink}", f"same={first_names.setdefault(status.st_ino, shown)!r}"]
    if kind == stat.S_IFREG:
        fields += [str(status.st_size), checksum(path)]
    if kind == stat.S_IFLNK:
        fields.append(repr(os.readlink(path)))
    else:
        fields.append(extended(path))
    if kind != stat.S_IFDIR or directory_times:
        fields.append(f"mtime={status.st_mtime_ns}")
    return " ".join(fields)


def main():
    root = sys.argv[1]
    directory_times = "--without-directory-times" not in sys.argv[2:]
    first_names = {}
    for path in entries(root):
        shown = os.fsdecode(os.path.relpath(path, os.fsencode(root) if isinstance(path, bytes) else root))
        print(line(path, shown, first_names, directory_times))


main()
