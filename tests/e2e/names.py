"""Names on a mount whose entries and inodes live on several servers. Usage: names.py MOUNT"""

import os
import sys

from checks import check, finish, read, write

MOUNT = sys.argv[1]
ROUNDS = 200


def link_counts_after_a_move():
    """A directory moves between two others: their link counts are right at once, whatever servers they live on."""
    wrong = []
    for index in range(ROUNDS):
        a, b = (os.path.join(MOUNT, f"links-{name}{index}") for name in "ab")
        os.mkdir(a)
        os.mkdir(b)
        os.mkdir(os.path.join(a, "s"))
        # Known to the kernel before the move:
        os.lstat(a), os.lstat(b), os.lstat(os.path.join(a, "s"))
        os.rename(os.path.join(a, "s"), os.path.join(b, "d"))
        counts = (os.lstat(a).st_nlink, os.lstat(b).st_nlink)
        if counts != (2, 3):
            wrong.append((index, counts))
        os.rmdir(os.path.join(b, "d"))
        os.rmdir(a)
        os.rmdir(b)
    check("link counts after the move of a directory", not wrong, wrong[:5])


def replacing_by_rename():
    """The way programs save: write aside, rename over. The name is never missing and always whole."""
    wrong = []
    path = os.path.join(MOUNT, "saved")
    for index in range(ROUNDS):
        content = (b"%d " % index) * 1000
        write(path + ".new", content)
        os.rename(path + ".new", path)
        if read(path) != content:
            wrong.append(index)
    check("rename over an existing file", not wrong and not os.path.exists(path + ".new"), wrong[:5])


def trees_come_and_go():
    """rmdir of a directory that is not empty fails; after its children went it works."""
    wrong = []
    for index in range(50):
        top = os.path.join(MOUNT, f"tree{index}")
        os.makedirs(os.path.join(top, "a", "b"))
        write(os.path.join(top, "a", "b", "f"), b"x")
        try:
            os.rmdir(os.path.join(top, "a"))
            wrong.append(("removed although not empty", index))
        except OSError:
            pass
        if read(os.path.join(top, "a", "b", "f")) != b"x":
            wrong.append(("content", index))
        os.unlink(os.path.join(top, "a", "b", "f"))
        for directory in (os.path.join(top, "a", "b"), os.path.join(top, "a"), top):
            os.rmdir(directory)
        if os.path.exists(top):
            wrong.append(("still there", index))
    check("rmdir keeps directories that are not empty", not wrong, wrong[:5])


def hard_links():
    """All names of a file tell the same, wherever they live."""
    wrong = []
    for index in range(50):
        first = os.path.join(MOUNT, f"first{index}")
        write(first, b"1")
        names = [os.path.join(MOUNT, f"further{index}-{n}") for n in range(4)]
        for name in names:
            os.link(first, name)
        write(names[2], b"changed")
        status = {(os.stat(name).st_ino, os.stat(name).st_nlink, read(name)) for name in [first, *names]}
        if len(status) != 1 or status.pop()[1:] != (5, b"changed"):
            wrong.append(index)
        os.unlink(first)
        if os.stat(names[0]).st_nlink != 4 or read(names[3]) != b"changed":
            wrong.append((index, "after unlink"))
    check("hard links", not wrong, wrong[:5])


def odd_names():
    names = ["a:b", "n" * 255, "b" * 254, "new\nline", " ", "-rf", "日本語", "tab\t", "\\", "*", "...", "é" * 127]
    place = os.path.join(MOUNT, "odd names")
    os.mkdir(place)
    for name in names:
        write(os.path.join(place, name), name.encode())
    check("odd names are listed", sorted(os.listdir(place)) == sorted(names))
    check("odd names are read", all(read(os.path.join(place, name)) == name.encode() for name in names))
    deep = os.path.join(place, *(["d"] * 120))
    os.makedirs(deep)
    write(os.path.join(deep, "f"), b"deep")
    check("120 directories deep", read(os.path.join(deep, "f")) == b"deep")


link_counts_after_a_move()
replacing_by_rename()
trees_come_and_go()
hard_links()
odd_names()
finish()
