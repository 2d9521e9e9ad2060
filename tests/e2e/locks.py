"""Locks and appends through mounts of one cluster, by processes that each use another mount. Usage: locks.py MOUNT MOUNT MOUNT"""

import errno
import fcntl
import os
import signal
import struct
import sys
import time

from checks import check, finish

MOUNTS = [mount + "/" for mount in sys.argv[1:]]
A, B = MOUNTS[0], MOUNTS[1]
OFD_SETLK, OFD_SETLKW, OFD_GETLK = 37, 38, 36
DEADLINE_S = 30


class Child:
    """A process that does as it is told through a pipe, and answers through another: (result, errno)."""

    def __init__(self, work):
        down, up = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(down[1])
            os.close(up[0])
            os.read(down[0], 1)
            code = 0
            try:
                work()
            except OSError as error:
                code = error.errno
            os.write(up[1], struct.pack("i", code))
            os.read(down[0], 1)
            os._exit(0)
        os.close(down[0])
        os.close(up[1])
        self.tell, self.told = down[1], up[0]

    def go(self):
        os.write(self.tell, b"g")
        return self

    def result(self):
        """Errno of the work, 0 for success."""
        return struct.unpack("i", os.read(self.told, 4))[0]

    def ended(self, within_s):
        """Whether it has answered by then."""
        import select

        return bool(select.select([self.told], [], [], within_s)[0])

    def end(self):
        os.write(self.tell, b"e")
        os.waitpid(self.pid, 0)
        os.close(self.tell)
        os.close(self.told)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def in_child(work):
    child = Child(work).go()
    result = child.result()
    child.end()
    return result


def opened(path, flags=os.O_RDWR | os.O_CREAT):
    return os.open(path, flags, 0o644)


def flock_struct(kind, start=0, length=0):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def fresh(name):
    """A file of that name, made on the first mount."""
    os.close(opened(A + name))
    return name


def ranges():
    name = fresh("ranges")
    mine = opened(A + name)
    fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)

    def other(start, length, how=fcntl.LOCK_EX):
        file = opened(B + name)
        fcntl.lockf(file, how | fcntl.LOCK_NB, length, start)

    check("a range that is held there is refused here", in_child(lambda: other(5, 1)) == errno.EAGAIN)
    check("another range is not", in_child(lambda: other(10, 5)) == 0)
    fcntl.lockf(mine, fcntl.LOCK_UN, 4, 3)
    check("a hole in a range is free", in_child(lambda: other(3, 4)) == 0)
    check("what is left of it is not", in_child(lambda: other(2, 1)) == errno.EAGAIN)
    fcntl.lockf(mine, fcntl.LOCK_SH | fcntl.LOCK_NB, 3, 0)
    check("readers share", in_child(lambda: other(0, 3, fcntl.LOCK_SH)) == 0)
    check("and keep writers out", in_child(lambda: other(0, 3)) == errno.EAGAIN)

    def who():
        file = opened(B + name)
        found = fcntl.fcntl(file, fcntl.F_GETLK, flock_struct(fcntl.F_WRLCK, 0, 100))
        kind, _, start, length, _ = struct.unpack("hhqqi4x", found)
        if (kind, start, length) != (fcntl.F_RDLCK, 0, 3):
            raise OSError(errno.EPROTO, f"{kind} {start} {length}")

    check("F_GETLK finds who is in the way", in_child(who) == 0)
    os.close(opened(A + name, os.O_RDONLY))
    check("closing any descriptor gives all back", in_child(lambda: other(0, 100)) == 0)
    os.close(mine)


def families():
    name = fresh("families")
    mine, again = opened(A + name), opened(A + name)
    fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        both = True
    except OSError:
        both = False
    check("flock and fcntl do not see each other", both)

    def flock_there():
        fcntl.flock(opened(B + name), fcntl.LOCK_SH | fcntl.LOCK_NB)

    check("a flock is seen there", in_child(flock_there) == errno.EAGAIN)
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refused = False
    except OSError as error:
        refused = error.errno == errno.EAGAIN
    check("another opening of the same process is another owner", refused)
    copy = os.dup(mine)
    os.close(mine)
    check("a flock stays with a copy of the descriptor", in_child(flock_there) == errno.EAGAIN)
    os.close(copy)
    wait_until("and goes with the last one", lambda: in_child(flock_there) == 0)
    one, two = opened(A + name), opened(A + name)
    fcntl.fcntl(one, OFD_SETLK, flock_struct(fcntl.F_WRLCK))
    try:
        fcntl.fcntl(two, OFD_SETLK, flock_struct(fcntl.F_WRLCK))
        refused = False
    except OSError as error:
        refused = error.errno == errno.EAGAIN
    check("locks of open file descriptions belong to the opening", refused)

    def posix_there():
        fcntl.lockf(opened(B + name), fcntl.LOCK_EX | fcntl.LOCK_NB)

    check("and are seen there by the others of fcntl", in_child(posix_there) == errno.EAGAIN)
    os.close(two)
    check("closing another descriptor does not give them back", in_child(posix_there) == errno.EAGAIN)
    os.close(one)
    wait_until("closing their own does", lambda: in_child(posix_there) == 0)
    os.close(again)


def wait_until(what, done):
    until = time.monotonic() + DEADLINE_S
    while not done():
        if time.monotonic() > until:
            check(what, False, f"not within {DEADLINE_S} s")
            return
        time.sleep(0.01)
    check(what, True)


def waiting():
    for what, lock in [("fcntl", fcntl.lockf), ("flock", fcntl.flock)]:
        name = fresh("waiting-" + what)
        mine = opened(A + name)
        lock(mine, fcntl.LOCK_EX)
        waiter = Child(lambda: lock(opened(B + name), fcntl.LOCK_EX)).go()
        check(f"{what} waits for a lock there", not waiter.ended(0.3))
        began = time.monotonic()
        lock(mine, fcntl.LOCK_UN)
        check(f"{what} is granted when it is given back", waiter.result() == 0)
        print(f"     {what}: granted {(time.monotonic() - began) * 1e6:.0f} us after it was given back", flush=True)
        waiter.end()
        os.close(mine)


def many_waiters():
    """More waiters than the mount has threads: whoever gives back must get through."""
    name = fresh("many")
    mine = opened(A + name)
    fcntl.lockf(mine, fcntl.LOCK_EX)
    waiters = [Child(lambda: fcntl.lockf(opened(A + name), fcntl.LOCK_EX)).go() for _ in range(12)]
    check("twelve wait on the mount of the holder", not any(w.ended(0.05) for w in waiters))
    os.write(mine, b"the mount still answers")
    fcntl.lockf(mine, fcntl.LOCK_UN)
    done = 0
    until = time.monotonic() + DEADLINE_S
    while waiters and time.monotonic() < until:
        for waiter in [w for w in waiters if w.ended(0.02)]:
            done += waiter.result() == 0
            waiter.end()
            waiters.remove(waiter)
    check("each has its turn", done == 12, done)
    os.close(mine)


def interruption():
    name = fresh("interrupted")
    mine = opened(A + name)
    fcntl.lockf(mine, fcntl.LOCK_EX)

    def with_alarm():
        class Alarm(Exception):
            pass

        def ring(*_):
            raise Alarm

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            fcntl.lockf(opened(B + name), fcntl.LOCK_EX)
        except Alarm:
            return
        raise OSError(errno.EPROTO, "not interrupted")

    began = time.monotonic()
    waiter = Child(with_alarm).go()
    check("a signal ends the waiting", waiter.ended(5) and waiter.result() == 0, f"{time.monotonic() - began:.1f} s")
    waiter.end()
    victim = Child(lambda: fcntl.lockf(opened(B + name), fcntl.LOCK_EX)).go()
    check("another waits", not victim.ended(0.2))
    began = time.monotonic()
    victim.kill()
    check("who waits can be killed", time.monotonic() - began < 5)
    fcntl.lockf(mine, fcntl.LOCK_UN)

    def there():
        fcntl.lockf(opened(B + name), fcntl.LOCK_EX | fcntl.LOCK_NB)

    check("neither got the lock after its end", in_child(there) == 0)
    os.close(mine)


def deadlock():
    name = fresh("deadlock")
    mine = opened(A + name)
    fcntl.lockf(mine, fcntl.LOCK_EX, 1, 0)

    def other():
        file = opened(B + name)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)

    waiter = Child(other).go()
    check("it waits", not waiter.ended(0.3))
    try:
        fcntl.lockf(mine, fcntl.LOCK_EX, 1, 1)
        refused = False
    except OSError as error:
        refused = error.errno == errno.EDEADLK
    check("waiting for each other is refused", refused)
    fcntl.lockf(mine, fcntl.LOCK_UN)
    check("and the other goes on", waiter.result() == 0)
    waiter.end()
    os.close(mine)


def killed_holder():
    for what, lock in [("fcntl", fcntl.lockf), ("flock", fcntl.flock)]:
        name = fresh("killed-" + what)
        holder = Child(lambda: lock(opened(B + name), fcntl.LOCK_EX)).go()
        check(f"it has the {what} lock", holder.result() == 0)
        waiter = Child(lambda: lock(opened(A + name), fcntl.LOCK_EX)).go()
        check("another waits for it", not waiter.ended(0.2))
        holder.kill()
        check(f"the {what} lock of a killed process is given on", waiter.ended(10) and waiter.result() == 0)
        waiter.end()


def coherence():
    """A counter in a file, and a longer tail: each reads what the one before wrote, through its own mount's page cache. Also when each
    round opens the file: what the kernel is told with an opening is not done yet when others are granted the lock."""
    for name, offset, anew in [("counter", 0, False), ("counter-opened", 0, True), ("counter-large", 200_000, False)]:
        fresh(name)
        rounds, processes = 100, 4

        def count(mount):
            file = opened(mount + name)
            os.pread(file, 100, offset)
            for _ in range(rounds):
                if anew:
                    os.close(file)
                    file = opened(mount + name)
                fcntl.lockf(file, fcntl.LOCK_EX)
                size = os.fstat(file).st_size
                number = int(os.pread(file, 20, offset) or b"0")
                if size != (0 if number == 0 else offset + 8):
                    raise OSError(errno.EPROTO, f"size {size} at {number}")
                os.pwrite(file, b"%08d" % (number + 1), offset)
                fcntl.lockf(file, fcntl.LOCK_UN)
            os.close(file)

        began = time.monotonic()
        children = [Child(lambda mount=MOUNTS[i % 2]: count(mount)).go() for i in range(processes)]
        failed = [child.result() for child in children]
        for child in children:
            child.end()
        with open(B + name, "rb") as file:
            file.seek(offset)
            total = int(file.read())
        check(f"{name}: no count is lost", total == rounds * processes and not any(failed), (total, failed))
        rate = rounds * processes / (time.monotonic() - began)
        print(f"     {name}: {rate:.0f} locked increments a second, 4 processes on 2 mounts", flush=True)


def rates():
    name = fresh("rates")
    mine = opened(A + name)
    rounds = 1000
    began = time.monotonic()
    for _ in range(rounds):
        fcntl.lockf(mine, fcntl.LOCK_EX)
        fcntl.lockf(mine, fcntl.LOCK_UN)
    took = (time.monotonic() - began) / rounds * 1e6
    print(f"     locking and unlocking without anybody in the way: {took:.0f} us", flush=True)
    os.close(mine)


def appends():
    """Records of odd sizes by four processes on two mounts."""
    for name, sizes, count in [("log", [1, 17, 300, 4097], 150), ("log-large", [50_001, 131_072, 300_003], 12)]:
        fresh(name)

        def write(writer, mount):
            file = opened(mount + name, os.O_WRONLY | os.O_APPEND)
            for number in range(count):
                size = sizes[(number + writer) % len(sizes)]
                head = b"<%d %d %d>" % (writer, number, size)
                if writer == 2:
                    done = os.pwrite(file, head + bytes([65 + writer]) * size, 3)  # Appends, as in Linux.
                else:
                    done = os.write(file, head + bytes([65 + writer]) * size)
                if done != len(head) + size:
                    raise OSError(errno.EPROTO, "short")
            os.close(file)

        began = time.monotonic()
        children = [Child(lambda w=w: write(w, MOUNTS[w % 2])).go() for w in range(4)]
        failed = [child.result() for child in children]
        for child in children:
            child.end()
        took = time.monotonic() - began
        for mount in MOUNTS[:2]:
            with open(mount + name, "rb") as file:
                check(f"{name}: all records are whole and in order", records(file.read(), count), failed)
        check(f"{name}: nothing failed", not any(failed), failed)
        print(f"     {name}: {4 * count / took:.0f} appends a second, 4 processes on 2 mounts", flush=True)


def late_appends():
    """O_APPEND that is set after the opening: the kernel sends a write in pieces, of which none may overwrite another."""
    name = fresh("log-late")
    count, size = 60, 5000

    def write(writer, mount):
        file = opened(mount + name, os.O_WRONLY)
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
        for _ in range(count):
            os.write(file, bytes([65 + writer]) * size)
        os.close(file)

    children = [Child(lambda w=w: write(w, MOUNTS[w])).go() for w in range(2)]
    failed = [child.result() for child in children]
    for child in children:
        child.end()
    for mount in MOUNTS[:2]:
        with open(mount + name, "rb") as file:
            content = file.read()
        found = (len(content), content.count(b"A"), content.count(b"B"))
        check("nothing is lost when O_APPEND is set later", found == (2 * count * size, count * size, count * size), (found, failed))


def records(content, count):
    following, at = [0] * 4, 0
    while at < len(content):
        end = content.index(b">", at, at + 40)
        writer, number, size = map(int, content[at + 1 : end].split())
        body = content[end + 1 : end + 1 + size]
        if number != following[writer] or body != bytes([65 + writer]) * size:
            return False
        following[writer] += 1
        at = end + 1 + size
    return following == [count] * 4


for part in [ranges, families, waiting, many_waiters, interruption, deadlock, killed_holder, coherence, rates, appends, late_appends]:
    part()
finish()
