#!/usr/bin/env python3
"""A file that all nodes read at once: what its holder sends, and how long it takes, with and without servers passing it on.

    cargo build --release && cargo build --release -p fs-client --example readers
    bench/hot.py                                                          some minutes
    bench/hot.py --readers 16 --rounds 3 --update docs/performance.md     what docs/performance.md shows
    bench/hot.py --small 4096 --rounds 5 --update docs/performance.md     and of a file that lies with its inode

Servers of one machine stand for nodes: each has one process of readers, which go through it alone. A round starts a cluster, writes a new file through the first server, and
has everybody read it from one moment on; then the same with --hot-files off (A B A B). Counted by the servers from just before the readers begin: bytes
that servers sent and received, without the content that each gave to the readers of its own node, and all messages. Shown are medians. The script ends with
status 1 if a reader read something else than the others, or the holder sent a piece more often than the tree has branches and early readers.

With --small each reader is a client of its own, as processes are, and counted are the questions about names and inodes that servers carried out.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bed
from bed import MIB, Cluster, table

FAN_OUT = 4


def write(cluster, layout, size):
    """The file /d/f of so many bytes, through server 0."""
    through = {"HAYATE_GATEWAY": "0"}
    source = cluster.dir / "source"
    with source.open("wb") as out:
        for at in range(0, size, MIB):
            out.write(os.urandom(min(MIB, size - at)))
    cluster.command("mkdir", "--layout", layout, "/d", env=through)
    cluster.command("cp", source, "hayate:/d/f", env=through)


def read(cluster, options):
    """Seconds until the last reader had all."""
    begin = int(1000 * (time.time() + 1.5 + options.nodes * options.readers / 2000))
    nodes = []
    for node in range(options.nodes):
        words = [options.reader, cluster.file, "/d/f", options.readers, begin, *(["each"] if options.small else [])]
        env = {**os.environ, "HAYATE_GATEWAY": str(node)}
        nodes.append(subprocess.Popen(list(map(str, words)), env=env, stdout=subprocess.PIPE, text=True))
    took = [int(node.communicate()[0] or 0) for node in nodes]
    if any(node.returncode for node in nodes):
        sys.exit("a reader failed")
    return max(took) / 1000


def measure(options, layout, words):
    with Cluster(options, "hot") as cluster:
        options.machine = bed.machine(cluster.dir)
        cluster.up(options.nodes, "--memory", options.memory, *words)
        write(cluster, layout, options.size * MIB)
        before = cluster.status()
        seconds = read(cluster, options)
        after = cluster.status()
    grown = lambda server, name: after[server][name] - before[server][name]
    servers = range(options.nodes)
    own = options.readers * options.size * MIB
    hot = lambda name: sum(server["hot"][name] for server in after)
    return {
        "seconds": seconds,
        "lent": hot("lent") / options.size,
        "between MiB": sum(grown(server, "bytes_received") for server in servers) / MIB,
        "busiest MiB": max(grown(server, "bytes_sent") - own for server in servers) / MIB,
        "messages": sum(grown(server, "messages_sent") for server in servers),
        "holder messages": grown(0, "messages_sent"),
        "cpu": sum(grown(server, "cpu_us") for server in servers) / 1e6,
    }


QUESTIONS = ["lookup", "getattr", "open", "openread", "readinline"]


def measure_small(options, words):
    with Cluster(options, "hot") as cluster:
        options.machine = bed.machine(cluster.dir)
        cluster.up(options.nodes, "--memory", options.memory, *words)
        write(cluster, "striped", options.small)
        before = cluster.status()
        seconds = read(cluster, options)
        after = cluster.status()
    carried_out = lambda status: [sum(server["operations"].get(name, 0) for name in QUESTIONS) for server in status]
    asked = [now - then for now, then in zip(carried_out(after), carried_out(before))]
    return {
        "seconds": seconds,
        "busiest": max(asked),
        "all": sum(asked),
        "given": sum(server["hot"]["answers_given"] for server in after),
        "cpu": sum(now["cpu_us"] - then["cpu_us"] for now, then in zip(after, before)) / 1e6,
    }


def compare_small(options):
    rows = {"answered by each node's server": [], "each by its home": []}
    for number in range(options.rounds):
        for name, words in zip(rows, [[], ["--hot-files", "off"]]):
            rows[name].append(measure_small(options, words))
            print(number, name, rows[name][-1], file=sys.stderr, flush=True)
    lines = []
    for name, samples in rows.items():
        middle = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
        lines.append([f"{options.small:,}", f"{options.nodes} x {options.readers}", name, f"{middle['busiest']:,.0f}", f"{middle['all']:,.0f}", f"{middle['given']:,.0f}",
                      f"{middle['seconds']:.2f}", f"{middle['cpu']:.2f}"])
    head = ["bytes", "nodes x processes", "", "questions to the busiest home", "to all homes", "answered from what was lent", "seconds", "CPU s of the servers"]
    return table(head, lines)


def compare(options, layout):
    rows = {"passed on": [], "each from its holder": []}
    for number in range(options.rounds):
        for name, words in [("passed on", []), ("each from its holder", ["--hot-files", "off"])]:
            rows[name].append(measure(options, layout, words))
            print(layout, number, name, rows[name][-1], file=sys.stderr, flush=True)
    return rows


def main():
    parse = bed.parser(__doc__)
    parse.add_argument("--rounds", type=int, default=5, help="of both ways each")
    parse.add_argument("--nodes", type=int, default=8)
    parse.add_argument("--readers", type=int, default=64, help="a node")
    parse.add_argument("--size", type=int, default=64, help="MiB of the file")
    parse.add_argument("--small", type=int, default=0, metavar="BYTES", help="of a file that lies with its inode, instead: what is asked about it")
    parse.add_argument("--memory", default="1280M", help="of a server; a sixteenth is for what is kept")
    parse.add_argument("--layouts", default="local,striped")
    parse.add_argument("--reader", type=Path, help="the example `readers` of fs-client (default: that beside the program)")
    options = bed.parse(parse, rounds=1, nodes=3, readers=2, size=4, memory="256M", layouts="local")
    options.reader = options.reader or bed.example(options, "readers")
    if options.small:
        text = compare_small(options)
        bed.update(options, "hot small", f"{options.machine}\n\n{text}")
        return
    lines, failed = [], False
    for layout in options.layouts.split(","):
        for name, samples in compare(options, layout).items():
            middle = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
            failed |= any(sample["lent"] > FAN_OUT for sample in samples)
            lines.append([layout, str(options.readers), name, f"{middle['busiest MiB']:.0f}", f"{middle['between MiB']:.0f}",
                          f"{middle['holder messages']:.0f}", f"{middle['messages']:.0f}", f"{middle['seconds']:.1f}", f"{middle['cpu']:.1f}"])
    head = ["layout", "readers a node", "", "MiB sent to other nodes, busiest server", "by all servers", "messages sent by server 0", "by all", "seconds",
            "CPU s of the servers"]
    bed.update(options, "hot", f"{options.machine}\n\n{table(head, lines)}")
    sys.exit("the holder sent a piece too often" if failed else 0)


if __name__ == "__main__":
    main()
