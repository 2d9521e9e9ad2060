"""What the measuring scripts of this directory stand on: clusters that are taken down again, CPU time, tables, and marks in documents.

A module only; each script beside it is a program only. Every script has these options: `--hayate` (the program; examples and libraries are looked for
beside it), `--dir` (where everything lies), `--update` (the document that has its tables between marks), and `--quick`: the smallest sizes, to see that the
script works. What is measured then says nothing, and no bound of a rate is checked.
"""

import argparse
import json
import mmap
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/performance.md"
# The document with the scale model's answer to the requirement.
BENCHMARKS = ROOT / "docs/benchmarks.md"
# What messages cost, which the program has built in for its scale model: measured by scale.py.
CALIBRATION = ROOT / "bench/src/scale/calibration.json"
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


def parser(doc):
    """The options that all scripts have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--hayate", type=Path, default=BUILT / "hayate", help="the program")
    made.add_argument("--dir", type=Path, help="where stores and files go (default: the temporary directory)")
    made.add_argument("--update", type=Path, metavar="FILE", help="put the tables into this document, between their marks")
    made.add_argument("--quick", action="store_true", help="the smallest sizes, to see that it works: the figures say nothing")
    return made


def parse(made, **quick):
    """The options; with --quick these instead of what was not given. A terminated script takes everything down."""
    if "--quick" in sys.argv:
        made.set_defaults(**quick)
    options = made.parse_args()
    if not options.hayate.is_file():
        made.error(f"{options.hayate} does not exist: cargo build --release")
    options.hayate = options.hayate.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return options


def example(options, name):
    """A program of an examples/ directory, built like the program itself."""
    path = options.hayate.parent / "examples" / name
    if not path.is_file():
        sys.exit(f"{path} does not exist: build the examples with the options of {options.hayate}")
    return path


def run(args, env=None):
    """Runs a program to its end; its output. What it says on failure is passed on."""
    done = subprocess.run([str(arg) for arg in args], env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Cluster:
    """Servers, a shared tier if asked for, and what is measured beside them, in a directory of its own that is gone in the end."""

    def __init__(self, options, name, top=None):
        """`top`: a directory that has other clusters, too, and is not removed with this one."""
        self.options, self.name, self.own = options, name, top is None
        self.dir = Path(tempfile.mkdtemp(prefix=f"hayate-{name}-", dir=options.dir)) if self.own else top / name
        self.dir.mkdir(exist_ok=True)
        # A build that ends meanwhile must not change what is measured. Libraries and examples stay where they are.
        self.hayate = shutil.copy2(options.hayate, self.dir / "hayate") if self.own else options.hayate
        self.file, self.tier, self.mount, self.store = (self.dir / name for name in ("c.toml", "tier", "m", "store"))
        self.nodes, self.pids, self.job = 0, [], None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def up(self, nodes, *words, store=None, tier=False, mount=False):
        """Starts servers. Returns itself."""
        more = []
        for wanted, word, path in [(tier, "--tier", self.tier), (mount, "--mount", self.mount)]:
            if wanted:
                spread(path)
                more += [word, path]
        self.command("up", "--nodes", nodes, "--store", store or self.store, *more, *words)
        text = self.file.read_text()
        self.nodes, self.pids = nodes, [int(pid) for pid in re.findall(r"^pid\s*=\s*(\d+)", text, re.M)]
        self.job = re.search(r'^job\s*=\s*"(.*)"', text, re.M)[1]
        assert len(self.pids) >= nodes, f"{self.file} names {len(self.pids)} servers"
        return self

    def command(self, *words, env=None):
        """Runs the program on this cluster; its output. What is in `env` is added to the environment."""
        return run([self.hayate, "--cluster", self.file, *words], {**os.environ, **env} if env else None)

    def states(self):
        return json.loads(self.command("status", "--json"))["servers"]

    def status(self):
        """What each server says of itself."""
        return [server["status"] for server in self.states()]

    def pool(self, name, server=0):
        return next(pool for pool in self.status()[server]["pools"] if pool["name"] == name)

    def memory(self, server=0, what="RssAnon"):
        """Bytes that a server has allocated (RssAnon), or shares with clients (RssShmem)."""
        return memory_of(self.pids[server], what)

    def cpu_s(self):
        """CPU seconds of the servers so far."""
        return sum(map(fine_cpu_us, self.pids)) / 1e6

    def runs(self, pid):
        """Whether a process is still a server of this cluster: its number may have been given to another."""
        with suppress(OSError):
            return self.job in Path(f"/proc/{pid}/cmdline").read_text()
        return False

    def down(self):
        """Takes everything down, whatever has happened before."""
        if self.file.exists():
            subprocess.run([self.hayate, "--cluster", self.file, "down", "--discard"], capture_output=True, check=False)
        for pid in self.pids:
            if self.job and self.runs(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.own:
            remove(self.dir)


def spread(path):
    """Makes a directory whose directories lie far from each other: ext4 else walks past inodes that were removed lately, one by one."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["chattr", "+T", path], capture_output=True, check=False)


def remove(path):
    """Removes a tree, unless something is mounted in it."""
    if any(f" {path}/" in line for line in Path("/proc/self/mounts").read_text().splitlines()):
        print(f"still mounted below {path}: not removed", file=sys.stderr)
    else:
        shutil.rmtree(path, ignore_errors=True)


def memory_of(pid, what="RssAnon"):
    """Bytes that a process has of a kind of memory: RssAnon, RssShmem, or the most there was of all (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what + ":")).split()[1])


def cpu_us(pid):
    """CPU time of a process so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / TICKS


def fine_cpu_us(pid):
    """The same to the nanosecond, from the scheduler; of the threads that are there."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue
    return total / 1e3


def busy_us():
    """CPU time of everything that has run on this machine."""
    fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft, _steal = fields
    return (user + nice + system + irq + soft) * 1e6 / TICKS


def own_us():
    """CPU time of this script, and of what it started and has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) * 1e6


SPINNER = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, [int(sys.argv[1])])
while True:
    pass
"""
AUTOGROUP = Path("/proc/self/autogroup")


def idle_group():
    """A control group for what takes nothing from anybody, or None where this user may not make one."""
    name = f"hayate-awake-{os.getpid()}"
    for parent in [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")]:
        group = parent / name
        try:
            group.mkdir(exist_ok=True)
            (group / "cpu.idle").write_text("1")
            return group
        except OSError:
            if group.is_dir():
                group.rmdir()
    return None


def spinner(cpu, group):
    """A process that keeps a CPU awake and yields to everybody.

    With scheduling by sessions (autogroup), the class SCHED_IDLE counts within a session only: the session as a whole would
    take half of the CPU from the servers'. So it is in a control group that is idle as a whole, or gets a session of its own, of the least weight.
    """

    def least_weight():
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        elif AUTOGROUP.exists():
            AUTOGROUP.write_text("19")

    return subprocess.Popen([sys.executable, "-c", SPINNER, str(cpu)], start_new_session=True, preexec_fn=least_weight)


class Awake:
    """Keeps all CPUs from sleeping: waking one of a virtual machine costs 50 to 80 us."""

    def __init__(self):
        self.group, self.spinners = None, []

    def start(self):
        self.group = idle_group()
        self.spinners = [spinner(cpu, self.group) for cpu in os.sched_getaffinity(0)]

    def stop(self):
        for process in self.spinners:
            process.kill()
            process.wait()
        if self.group:
            self.group.rmdir()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()


def warm_memory(size):
    """Touches so many bytes of memory and gives them back, so that page caches get pages that the host of a virtual machine has backed. At most half of what is free.

    Pages that it has not cost 2,500 us of CPU time per MiB at the first touch, ten times what is measured, and who gets them is chance.
    """
    free = int(re.search(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)[1]) << 10
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, min(size, free // 2), flags=flags).close()


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def update(options, mark, text):
    """Prints tables, and puts them into the document, between their marks, if that is wanted."""
    if options.quick:
        text = f"A short run (`--quick`), which shows the form and no figures.\n\n{text}"
    print(text)
    if not options.update:
        return
    begin, end = f"<!-- perf {mark} -->", f"<!-- end of perf {mark} -->"
    document = options.update.read_text()
    if begin not in document or end not in document:
        sys.exit(f"{options.update} lacks the lines {begin} and {end}")
    head, rest = document.split(begin, 1)
    options.update.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


def commit():
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    # What scripts write into documents, and the model's costs, is no change of what is measured.
    changed = [line for line in dirty.splitlines() if not line[3:].startswith(("docs/", str(CALIBRATION.relative_to(ROOT))))]
    return name + (" with changes" if changed else "")


def machine(where):
    """The machine, for the line above a table."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    kind = run(["findmnt", "-n", "-o", "FSTYPE", "-T", where]).strip()
    return (
        f"{cpus} CPU{'s' if cpus > 1 else ''} ({platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}, stores on {kind}; "
        f"commit {commit()}; {time.strftime('%Y-%m-%d')}."
    )
