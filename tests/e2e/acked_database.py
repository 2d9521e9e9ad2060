"""Fills a database on a mount while servers are killed, and keeps a log, elsewhere, of the rows whose commit was acknowledged.
Usage: acked_database.py DATABASE LOG STOP-FILE   (works until STOP-FILE exists)
       acked_database.py --verify DATABASE LOG"""

import os
import sqlite3
import sys


def connect(path):
    base = sqlite3.connect(path, timeout=60, isolation_level=None)
    base.execute("PRAGMA synchronous = FULL")
    base.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body TEXT)")
    return base


def body(number):
    return f"row {number} " * (number % 200)


def work(path, log, stop):
    number = errors = 0
    base = None
    with open(log, "a") as acknowledged:
        while not os.path.exists(stop):
            number += 1
            try:
                base = base or connect(path)
                base.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (number, body(number)))
                acknowledged.write(f"{number}\n")
                acknowledged.flush()
            except sqlite3.OperationalError:
                # A clean error. What it left is for the journal's recovery at the next opening.
                errors += 1
                if base:
                    base.close()
                base = None
    print(f"{number - errors} commits, {errors} ended with an error")


def verify(path, log):
    base = connect(path)
    verdict = base.execute("PRAGMA integrity_check").fetchall()
    if verdict != [("ok",)]:
        sys.exit(f"integrity_check: {verdict[:5]}")
    rows = dict(base.execute("SELECT id, body FROM t"))
    numbers = [int(line) for line in open(log)]
    wrong = [number for number in numbers if rows.get(number) != body(number)]
    if wrong or not numbers:
        sys.exit(f"{len(wrong)} of {len(numbers)} committed rows are missing or changed: {wrong[:10]}")
    base.close()
    print(f"{len(numbers)} committed rows unchanged")


if sys.argv[1] == "--verify":
    verify(*sys.argv[2:4])
else:
    work(*sys.argv[1:4])
