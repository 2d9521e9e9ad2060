"""Makes a source tree of at least N files: real ones (the crate registry and the toolchain's documentation, as far as they are on this
machine), then generated ones, and every kind of entry that a copy must keep. The same machine gives the same tree.
Usage: make_tree.py DIRECTORY N"""

import os
import random
import shutil
import subprocess
import sys

# No single file of the sources is larger: the tree is about numbers.
LARGEST_BYTES = 4 << 20
FILES_A_DIRECTORY = 100


def sources():
    """Directories with real files, those first that are sources of programs."""
    home = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    found = [os.path.join(home, "registry", "src")]
    try:
        command = ["rustc", "--print", "sysroot"]
        root = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        found = [os.path.join(root, "lib", "rustlib", "src"), *found, os.path.join(root, "share")]
    except (OSError, subprocess.CalledProcessError):
        pass
    return [path for path in found if os.path.isdir(path)]


def copy_real(target, wanted):
    """Copies files in a fixed order until there are enough; answers how many."""
    count = 0
    for index, source in enumerate(sources()):
        for directory, names, files in os.walk(source):
            names.sort()
            place = os.path.join(target, f"real{index}", os.path.relpath(directory, source))
            for name in sorted(files):
                if count >= wanted:
                    return count
                path = os.path.join(directory, name)
                if os.path.islink(path) or os.path.getsize(path) > LARGEST_BYTES:
                    continue
                os.makedirs(place, exist_ok=True)
                shutil.copy2(path, os.path.join(place, name))
                count += 1
    return count


def generate(target, wanted):
    """Files of the sizes that source trees have."""
    chance = random.Random(1)
    for index in range(wanted):
        place = os.path.join(target, "made", f"{index // FILES_A_DIRECTORY:04d}")
        os.makedirs(place, exist_ok=True)
        size = int(chance.lognormvariate(8, 1.5))
        with open(os.path.join(place, f"file{index}.txt"), "wb") as file:
            file.write(chance.randbytes(min(size, LARGEST_BYTES)))


def write(path, content, mode=0o644):
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def odd(target):
    """Entries of all kinds that a tree may have and that peers got wrong."""
    place = os.path.join(target, "odd")
    os.makedirs(os.path.join(place, "empty", "empty"))
    path = lambda name: os.path.join(place, name)
    write(path("zero"), b"")
    write(path("n" * 255), b"a long name\n")
    write(path("b" * 254), random.Random(2).randbytes(3 << 20))
    write(path("a:b:c"), b"colons\n")
    write(path("new\nline and space"), b"odd\n")
    write(path("\u65e5\u672c\u8a9e"), b"not ASCII\n")
    write(path("-rf"), b"an option?\n")
    write(path("program"), b"#!/bin/sh\necho it runs\n", 0o755)
    write(path("private"), b"mine\n", 0o600)
    write(path("read-only"), b"fixed\n", 0o444)
    write(path("setuid"), b"s\n", 0o4755)
    write(path("large"), random.Random(3).randbytes(40 << 20))
    with open(path("sparse"), "wb") as file:
        file.seek(5_000_000)
        file.write(b"after a hole")
        file.truncate(9_000_001)
    os.symlink("program", path("link"))
    os.symlink("nowhere/at/all", path("dangling"))
    os.symlink("empty", path("link-to-directory"))
    os.link(path("program"), path("hard"))
    os.link(path("program"), os.path.join(place, "empty", "hard-elsewhere"))
    os.mkdir(path("sticky"))
    os.chmod(path("sticky"), 0o1777)
    os.mkdir(path("setgid"))
    os.chmod(path("setgid"), 0o2755)
    deep = place
    for level in range(60):
        deep = os.path.join(deep, f"d{level}")
    os.makedirs(deep)
    write(os.path.join(deep, "bottom"), b"deep\n")
    attributes(path("private"))
    for name, seconds in (("zero", 1), ("large", 4_000_000_000), ("private", -5)):
        os.utime(path(name), ns=(seconds * 10**9 + 7, seconds * 10**9 + 123_456_789))


def attributes(path):
    """Extended attributes, where the source's file system has them."""
    try:
        os.setxattr(path, "user.kind", b"checkpoint")
        os.setxattr(path, "user.binary", bytes(range(256)))
    except OSError as error:
        print(f"no extended attributes in the source: {error}", file=sys.stderr)


def main():
    target, wanted = sys.argv[1], int(sys.argv[2])
    os.umask(0o022)
    os.makedirs(target)
    real = copy_real(target, wanted)
    generate(target, max(0, wanted - real))
    odd(target)
    print(f"{real} real files, {max(0, wanted - real)} generated ones, and one or two of every kind")


main()
