"""Goal: a file that all nodes read at once is read as docs/semantics.md says while others change it. Method: mounts that each go through a server of their
own, strict ones and one with the default time-outs; all read a large and a small file until servers answer from what they were lent; then
somebody changes them through another mount, and all read again.

Usage: hot.py HAYATE CLUSTER_FILE DEFAULT_MOUNT STRICT_MOUNT...
"""

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from checks import check, fails_with, finish, read, write

HAYATE, CLUSTER, DEFAULT, *STRICT = sys.argv[1:]
ALL = [DEFAULT, *STRICT]
LARGE = 3 << 20
SMALL = 1000
PATIENCE_S = 60
# Time-outs of the default mount, and what a busy machine may add.
TIMEOUT_S = 1.3
POOL = ThreadPoolExecutor(len(ALL))


def counted(name):
    said = subprocess.run([HAYATE, "--cluster", CLUSTER, "status", "--json"], check=True, capture_output=True, text=True)
    return sum(server["status"]["hot"][name] for server in json.loads(said.stdout)["servers"])


def pattern(number, size):
    return b"%07d " % number * (size // 8)


def uncached(path):
    """The content, asked of the servers: the kernel's copy of it is dropped first."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def everywhere(work, mounts=ALL):
    return list(POOL.map(work, mounts))


def heat(*names):
    """Reads on all nodes until servers answer by themselves what all of them are asked."""
    before = {name: counted(name) for name in ("hits", "answers_given")}
    end = time.monotonic() + PATIENCE_S
    while any(counted(name) < had + len(ALL) for name, had in before.items()):
        if time.monotonic() > end:
            check(f"{names} became hot", False, {name: counted(name) - had for name, had in before.items()})
            return
        for name in names:
            everywhere(lambda mount, name=name: uncached(f"{mount}/{name}"))


def changes_of_content(name, size):
    """One after the other, through each mount in turn."""
    wrong, recalls = [], counted("recalls" if name == "large" else "answers_recalled")
    held = [os.open(f"{mount}/{name}", os.O_RDONLY) for mount in STRICT]
    for number in range(1, 2 * len(ALL) + 1):
        if number in (1, len(ALL)):
            heat("large", "small")
        writer, content = ALL[number % len(ALL)], pattern(number, size)
        file = os.open(f"{writer}/{name}", os.O_WRONLY)
        os.pwrite(file, content, 0)
        # Before it is closed: strict mounts see it at once.
        wrong += [f"open {number}" for handle in held if os.pread(handle, size, 0) != content]
        os.close(file)
        # Afterwards everybody does who opens it.
        wrong += [f"{mount} {number}" for mount, got in zip(ALL, everywhere(lambda mount: read(f"{mount}/{name}"))) if got != content]
    for handle in held:
        os.close(handle)
    check(f"the {name} file's new content is read everywhere", not wrong, wrong[:5])
    check(f"the {name} file was hot", counted("recalls" if name == "large" else "answers_recalled") > recalls)


def changes_of_names():
    heat("large", "small")
    recalls = counted("answers_recalled")
    write(f"{STRICT[0]}/new", b"replaced")
    os.rename(f"{STRICT[0]}/new", f"{STRICT[0]}/small")
    check("a hot file that was replaced is the new one", all(content == b"replaced" for content in everywhere(lambda mount: read(f"{mount}/small"), STRICT)))
    os.chmod(f"{STRICT[1]}/large", 0o600)
    modes = everywhere(lambda mount: os.stat(f"{mount}/large").st_mode & 0o777, STRICT)
    check("a hot file's mode is the new one", modes == [0o600] * len(STRICT), modes)
    os.truncate(f"{STRICT[2]}/large", 5)
    sizes = everywhere(lambda mount: os.stat(f"{mount}/large").st_size, STRICT)
    check("a hot file that was cut is as long as it is", sizes == [5] * len(STRICT), sizes)
    gone = lambda mount: fails_with(errno.ENOENT, os.stat, f"{mount}/none")
    everywhere(lambda mount: [gone(mount) for _ in range(20)], STRICT)
    write(f"{STRICT[0]}/none", b"x")
    check("what all looked for in vain is there", all(read(f"{mount}/none") == b"x" for mount in STRICT))
    held = [os.open(f"{mount}/small", os.O_RDONLY) for mount in STRICT]
    os.unlink(f"{DEFAULT}/small")
    check("a hot file that was removed is gone", all(everywhere(lambda mount: fails_with(errno.ENOENT, os.stat, f"{mount}/small"), STRICT)))
    check("and stays where it is open", all(os.pread(handle, 100, 0) == b"replaced" for handle in held))
    for handle in held:
        os.close(handle)
    time.sleep(TIMEOUT_S)  # The promise of the default mount is about time.
    check("by time-outs it is gone, too", fails_with(errno.ENOENT, os.stat, f"{DEFAULT}/small"))
    check("names were hot", counted("answers_recalled") > recalls)


for each, length in (("large", LARGE), ("small", SMALL)):
    write(f"{STRICT[0]}/{each}", pattern(0, length))
changes_of_content("large", LARGE)
changes_of_content("small", SMALL)
changes_of_names()
finish()
