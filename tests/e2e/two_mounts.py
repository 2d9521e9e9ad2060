"""Two mounts of one cluster, as two nodes have them. Usage: two_mounts.py MOUNT OTHER-MOUNT"""

import errno
import os
import sys
import threading
import time

from checks import check, fails_with, finish, read, write

A, B = sys.argv[1] + "/", sys.argv[2] + "/"
# Longer than what a mount remembers attributes for (its default is 1,000 ms).
ATTRIBUTE_TIMEOUT_S = 1.1


def in_turn(index):
    """Writer and reader of a round."""
    return (A, B) if index % 2 else (B, A)


def parallel(*works):
    """Runs all at once, each told a barrier to start at."""
    barrier = threading.Barrier(len(works))
    threads = [threading.Thread(target=work, args=(barrier,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def close_to_open():
    wrong = 0
    for index in range(200):
        content = (b"%08d" % index) * 100
        writer, reader = in_turn(index)
        write(writer + "cto", content)
        wrong += read(reader + "cto") != content
    check("what was closed there is read here", wrong == 0, wrong)
    kept = open(B + "cto", "rb")
    kept.read()
    wrong = 0
    for index in range(200):
        content = (b"%08d" % index) * 100
        write(A + "cto", content)
        wrong += read(B + "cto") != content
    kept.close()
    check("the same while another handle is open", wrong == 0, wrong)


def in_place():
    wrong = 0
    for index in range(100):
        file = os.open(A + "cto", os.O_WRONLY)
        os.pwrite(file, b"%04d" % index, 10)
        os.close(file)
        wrong += read(B + "cto")[10:14] != b"%04d" % index
    check("writing in place is seen", wrong == 0, wrong)
    status = os.stat(A + "cto")
    read(B + "cto")
    file = os.open(A + "cto", os.O_WRONLY)
    os.pwrite(file, b"ZZZZ", 10)
    os.close(file)
    os.utime(A + "cto", ns=(status.st_atime_ns, status.st_mtime_ns))
    check("writing is seen although its time was put back", read(B + "cto")[10:14] == b"ZZZZ")


def names_appear_and_go():
    wrong = 0
    for index in range(100):
        wrong += not fails_with(errno.ENOENT, os.stat, f"{B}new{index}")
        write(f"{A}new{index}", b"x")
        wrong += not os.path.exists(f"{B}new{index}")
    check("new names are seen at once, after a failed look-up too", wrong == 0, wrong)
    wrong = 0
    for index in range(50):
        write(B + "rep", b"old")
        read(B + "rep")
        write(A + "rep.t", b"new%d" % index)
        os.rename(A + "rep.t", A + "rep")
        try:
            wrong += read(B + "rep") not in (b"new%d" % index, b"old")
        except OSError as error:
            wrong += 1
            print(error)
    check("a file replaced there is the old or the new here", wrong == 0, wrong)
    write(B + "del", b"1")
    os.stat(B + "del")
    os.unlink(A + "del")
    check("opening what was deleted there: ENOENT", fails_with(errno.ENOENT, os.open, B + "del", os.O_RDONLY))
    write(B + "again", b"1")
    os.stat(B + "again")
    os.unlink(A + "again")
    write(A + "again", b"2")
    check("deleted and made again there", read(B + "again") == b"2")


def races_of_creation():
    errors, winners = [], []

    def plain(base, index, barrier):
        barrier.wait()
        try:
            os.close(os.open(f"{base}race{index}", os.O_CREAT | os.O_RDWR, 0o644))
        except OSError as error:
            errors.append(error)

    def exclusive(base, index, barrier):
        barrier.wait()
        try:
            os.close(os.open(f"{base}ex{index}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
            winners.append(index)
        except FileExistsError:
            pass

    for work in (plain, exclusive):
        for index in range(200):
            parallel(*(lambda barrier, base=base: work(base, index, barrier) for base in (A, B, A, B)))
    check("O_CREAT by all at once", not errors, errors[:2])
    check("O_EXCL has one winner", sorted(winners) == list(range(200)), len(winners))


def sizes_of_open_files():
    writer = os.open(A + "open", os.O_CREAT | os.O_RDWR)
    os.write(writer, b"0123456789")
    reader = os.open(B + "open", os.O_RDONLY)
    check("opening sees what an open writer wrote", os.fstat(reader).st_size == 10 and os.pread(reader, 20, 0) == b"0123456789")
    os.write(writer, b"abc")
    # The promise is about time, so time must pass.
    time.sleep(ATTRIBUTE_TIMEOUT_S)
    check("after the time-out an open reader sees more", os.pread(reader, 20, 0) == b"0123456789abc" and os.fstat(reader).st_size == 13)
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(A)}
    check("a listing does not set back the own size", sizes["open"] == 13 and os.fstat(writer).st_size == 13)
    os.close(writer)
    os.close(reader)


def appends():
    for index in range(50):
        with open(in_turn(index)[0] + "app", "ab") as file:
            file.write(b"%03d\n" % index)
    want = b"".join(b"%03d\n" % index for index in range(50))
    check("appends in turn", read(A + "app") == want)
    files = [os.open(base + "app2", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for base in (A, B)]
    for index in range(50):
        os.write(files[index % 2], b"%03d\n" % index)
    for file in files:
        os.close(file)
    check("appends in turn, both open all the time", read(A + "app2") == want)


def shared_file():
    """Strided writes by both, as of a checkpoint into one file."""
    piece, count = 4700, 400

    def strided(base, first):
        file = os.open(base + "str", os.O_CREAT | os.O_RDWR)
        for index in range(first, count, 2):
            os.pwrite(file, bytes([index % 251]) * piece, index * piece)
        os.close(file)

    parallel(*(lambda barrier, base=base, first=first: (barrier.wait(), strided(base, first)) for first, base in enumerate((A, B))))
    want = b"".join(bytes([index % 251]) * piece for index in range(count))
    for name, base in (("here", A), ("there", B)):
        got = read(base + "str")
        bad = [index for index in range(count) if got[index * piece : (index + 1) * piece] != want[index * piece : (index + 1) * piece]]
        check(f"one file written by both, read {name}", got == want, (len(got), len(bad), bad[:10]))


close_to_open()
in_place()
names_appear_and_go()
races_of_creation()
sizes_of_open_files()
appends()
shared_file()
finish()
