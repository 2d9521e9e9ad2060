"""Works on a mount while servers are killed, and keeps a log, elsewhere, of what the file system has acknowledged.
Usage: acked_writer.py MOUNT-DIRECTORY LOG STOP-FILE SEED   (works until STOP-FILE exists)
       acked_writer.py --verify DIRECTORY LOG

One line of the log: a JSON list. Before an operation ["try", PATH...]: its outcome is open until an acknowledgement follows.
Acknowledgements: ["put", PATH, SIZE, SHA-256], ["end", PATH, SIZE, SHA-256] (a prefix of an appended file is safe), ["gone", PATH],
["moved", FROM, TO]. ["error", PATH, ERRNO, SECONDS]: a clean error."""

import errno
import hashlib
import json
import os
import random
import sys
import time

# Errors that an operation cut off by a dead server may end with. All else is a bug.
CLEAN = {errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNREFUSED, errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
# What an operation may find that was carried out although its answer got lost, or not although it was tried.
OPEN = {errno.ENOENT, errno.EEXIST}
# Longer than this no operation may hang.
HANG_S = 90


class Writer:
    """Does one operation after another. `alive` are the paths whose content is known."""

    def __init__(self, root, log, seed):
        self.root, self.log = root, open(log, "a")
        self.chance = random.Random(seed)
        self.alive = {}
        self.next = 0
        self.appended = (b"", 0)

    def note(self, *record):
        self.log.write(json.dumps(record) + "\n")
        self.log.flush()

    def path(self, name):
        return os.path.join(self.root, name)

    def put(self, sync):
        """A new or overwritten file: acknowledged by close, or by fsync."""
        if self.alive and self.chance.random() < 0.2:
            name = self.chance.choice(sorted(self.alive))
        else:
            self.next += 1
            name = f"d{self.next % 7}/f{self.next}"
        content = self.chance.randbytes(self.chance.choice([0, 10, 5000, 70_000, 1 << 20, 3_000_000]))
        self.note("try", name)
        self.alive.pop(name, None)
        os.makedirs(self.path(os.path.dirname(name)), exist_ok=True)
        file = os.open(self.path(name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        try:
            write_all(file, content)
            if sync:
                os.fsync(file)
                self.note("put", name, len(content), hashlib.sha256(content).hexdigest())
        finally:
            os.close(file)
        if not sync:
            self.note("put", name, len(content), hashlib.sha256(content).hexdigest())
        self.alive[name] = True

    def append(self):
        """A log file that grows by fsynced records and is never closed for long."""
        content, known = self.appended
        record = self.chance.randbytes(self.chance.randrange(1, 3000))
        file = os.open(self.path("journal"), os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            # At a place of its own: after an error the record is written again there.
            os.pwrite(file, record, known)
            os.fsync(file)
        finally:
            os.close(file)
        content += record
        self.appended = (content, known + len(record))
        self.note("end", "journal", len(content), hashlib.sha256(content).hexdigest())

    def remove(self):
        name = self.chance.choice(sorted(self.alive))
        self.note("try", name)
        del self.alive[name]
        os.unlink(self.path(name))
        self.note("gone", name)

    def move(self):
        source = self.chance.choice(sorted(self.alive))
        self.next += 1
        target = f"d{self.next % 7}/m{self.next}"
        self.note("try", source, target)
        del self.alive[source]
        os.makedirs(self.path(os.path.dirname(target)), exist_ok=True)
        os.rename(self.path(source), self.path(target))
        self.note("moved", source, target)
        self.alive[target] = True

    def step(self):
        kind = self.chance.random()
        if kind < 0.5 or len(self.alive) < 5:
            self.put(sync=self.chance.random() < 0.4)
        elif kind < 0.7:
            self.append()
        elif kind < 0.8:
            self.remove()
        else:
            self.move()


def write_all(file, content):
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def work(root, log, stop, seed):
    writer = Writer(root, log, seed)
    os.makedirs(root, exist_ok=True)
    errors = steps = 0
    longest = 0.0
    while not os.path.exists(stop):
        began = time.monotonic()
        try:
            writer.step()
        except OSError as error:
            errors += 1
            writer.note("error", str(error.filename), error.errno, time.monotonic() - began)
            if error.errno not in CLEAN | OPEN:
                sys.exit(f"not a clean error: {error}")
        took = time.monotonic() - began
        longest = max(longest, took)
        if took > HANG_S:
            sys.exit(f"an operation took {took:.0f} s")
        steps += 1
    print(f"{steps} operations, {errors} ended with an error, the longest took {longest:.1f} s")


def expected(log):
    """What must be there by the log: path to (size, checksum) or None for gone; paths whose state is open are absent."""
    known, ends = {}, {}
    for line in open(log):
        kind, *record = json.loads(line)
        if kind == "try":
            moving = known.get(record[0])
            for name in record:
                known.pop(name, None)
        elif kind == "put":
            known[record[0]] = tuple(record[1:])
        elif kind == "end":
            ends[record[0]] = tuple(record[1:])
        elif kind == "gone":
            known[record[0]] = None
        elif kind == "moved":
            known[record[0]] = None
            if moving:
                known[record[1]] = moving
    return known, ends


def verify(root, log):
    known, ends = expected(log)
    wrong = []
    for name, want in sorted(known.items()):
        path = os.path.join(root, name)
        if want is None:
            if os.path.lexists(path):
                wrong.append(f"{name}: came back")
            continue
        try:
            content = open(path, "rb").read()
        except OSError as error:
            wrong.append(f"{name}: {error}")
            continue
        if (len(content), hashlib.sha256(content).hexdigest()) != want:
            wrong.append(f"{name}: {len(content)} bytes, not the {want[0]} that were acknowledged, or others")
    for name, (size, checksum) in ends.items():
        content = open(os.path.join(root, name), "rb").read()
        if len(content) < size or hashlib.sha256(content[:size]).hexdigest() != checksum:
            wrong.append(f"{name}: the first {size} bytes are not what was fsynced ({len(content)} are there)")
    if not known or not ends:
        wrong.append("nothing was acknowledged: the test shows nothing")
    if wrong:
        sys.exit("\n".join(wrong[:20]))
    there = sum(1 for want in known.values() if want)
    print(f"{there} files and {sum(size for size, _ in ends.values())} appended bytes unchanged, {len(known) - there} names gone as they must")


if sys.argv[1] == "--verify":
    verify(*sys.argv[2:4])
else:
    work(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
