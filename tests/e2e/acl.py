"""Access control lists, modes and groups: a mount against a local file system. Run by root. Usage: acl.py MOUNT LOCAL [SEED [STEPS]]

The same generated sequence of setfacl, chmod, chown, umask and making of things, by several users, is carried out on both; after each step
the outcomes are compared, and again and again modes, owners, lists and what each user may do everywhere.
"""

import errno
import os
import pickle
import random
import stat
import subprocess
import sys

from checks import check, finish

ROOTS = sys.argv[1], sys.argv[2]
SEED = int(sys.argv[3]) if len(sys.argv) > 3 and sys.argv[3] else random.randrange(1 << 32)
STEPS = int(sys.argv[4]) if len(sys.argv) > 4 else 150
RANDOM = random.Random(SEED)
# (user, group, supplementary groups); root first.
USERS = [(0, 0, []), (3001, 3101, [3102]), (3002, 3102, []), (3003, 3103, [3101, 3102]), (3004, 3104, [])]
GROUPS = [3101, 3102, 3103]
LISTS = "system.posix_acl_access", "system.posix_acl_default"
# Umask, and so on, are of a process: each step of a user has one of its own.
ENVIRONMENT = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def as_user(user, work):
    """What `work` answers in a process of the user."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        uid, gid, groups = user
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        with os.fdopen(write, "wb") as out:
            pickle.dump(work(), out)
            out.flush()
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as source:
        told = source.read()
    os.waitpid(child, 0)
    return pickle.loads(told) if told else "died"


def outcome(call, *arguments, **named):
    """The name of the errno, or ok."""
    try:
        call(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


def permissions():
    return "".join(letter if RANDOM.random() < 0.6 else "-" for letter in "rwx")


def entries():
    """What setfacl -m is given."""
    chosen = []
    for _ in range(RANDOM.randint(1, 3)):
        kind = RANDOM.choice(["u", "g", "m", "u:", "g:", "o:"])
        who = {"u": RANDOM.choice(USERS)[0], "g": RANDOM.choice(GROUPS)}.get(kind, "")
        chosen.append(f"{kind[0]}:{who}:{permissions()}")
    return ",".join(chosen)


def setfacl(*options):
    def run(path):
        return subprocess.run(["setfacl", *options, path], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    return run


def make(kind, mode, mask):
    def run(path):
        os.umask(mask)
        if kind == "dir":
            return outcome(os.mkdir, path, mode)
        if kind == "fifo":
            return outcome(os.mkfifo, path, mode)
        if kind == "link":
            return outcome(os.symlink, "nowhere", path)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        except OSError as error:
            return errno.errorcode[error.errno]
        return "ok"
    return run


class Tree:
    """Relative paths of what was made."""

    def __init__(self):
        self.dirs, self.others, self.count = ["."], [], 0

    def any(self):
        return RANDOM.choice(self.dirs * 2 + self.others)

    def fresh(self):
        self.count += 1
        return os.path.join(RANDOM.choice(self.dirs), f"n{self.count}")


def step(tree):
    """What is done, by whom, to which path, and what is to be remembered if that worked."""
    user = RANDOM.choice(USERS + USERS[:1] * 4)
    way = RANDOM.choice(["acl", "acl", "acl", "default", "default", "strip", "chmod", "chmod", "chown", "make", "make", "make", "make", "rename"])
    path = tree.any()
    if way == "acl":
        options = RANDOM.choice([["-m", entries()], ["-m", entries()], ["-n", "-m", entries()], ["-x", f"u:{RANDOM.choice(USERS)[0]}"]])
        return f"setfacl {options}", user, path, setfacl(*options), None
    if way == "default":
        options = RANDOM.choice([["-d", "-m", entries()], ["-d", "-m", entries()], ["-k"]])
        return f"setfacl {options}", user, RANDOM.choice(tree.dirs), setfacl(*options), None
    if way == "strip":
        return "setfacl -b", user, path, setfacl("-b"), None
    if way == "chmod":
        mode = RANDOM.choice([RANDOM.randrange(0o1000), RANDOM.randrange(0o10000), 0o755, 0o775, 0o2775])
        return f"chmod {mode:o}", user, path, lambda at: outcome(os.chmod, at, mode), None
    if way == "chown":
        uid, gid = RANDOM.choice([-1, *(user[0] for user in USERS)]), RANDOM.choice([-1, *GROUPS])
        return f"chown {uid}:{gid}", user, path, lambda at: outcome(os.chown, at, uid, gid, follow_symlinks=False), None
    if way == "rename" and tree.others:
        old, new = RANDOM.choice(tree.others), tree.fresh()

        def move(at):
            root = at[: -len(new)]
            return outcome(os.rename, root + old, root + new)

        def moved():
            tree.others.remove(old)
            tree.others.append(new)
        return f"rename {old}", user, new, move, moved
    kind = RANDOM.choice(["dir", "dir", "file", "file", "file", "fifo", "link"])
    mode = RANDOM.choice([0o777, 0o666, 0o2777, 0o644, RANDOM.randrange(0o1000)])
    mask = RANDOM.choice([0o022, 0o077, 0, 0o027])
    path = tree.fresh()
    kept = (tree.dirs if kind == "dir" else tree.others).append if kind != "link" else (lambda path: None)
    return f"make {kind} {mode:o} umask {mask:o}", user, path, make(kind, mode, mask), lambda: kept(path)


def of(path):
    """What root sees of an object."""
    status = os.lstat(path)
    lists = {name: os.getxattr(path, name) for name in os.listxattr(path) if name in LISTS}
    return stat.S_IFMT(status.st_mode), oct(status.st_mode & 0o7777), status.st_uid, status.st_gid, lists


def told(root, tree):
    return {path: of(os.path.join(root, path)) for path in tree.dirs + tree.others}


def allowed(root, tree):
    """Which of reading, writing, executing the calling user may."""
    return {path: "".join(letter for letter, bit in zip("rwx", (4, 2, 1)) if os.access(os.path.join(root, path), bit)) for path in tree.dirs + tree.others}


def differences(one, other):
    return [f"{path}: {one[path]} is {other[path]} on the local file system" for path in one if one[path] != other[path]]


def same(tree, when):
    different = differences(*(told(root, tree) for root in ROOTS))
    for user in USERS:
        different += [f"user {user[0]} {text}" for text in differences(*(as_user(user, lambda root=root: allowed(root, tree)) for root in ROOTS))]
    if different:
        check(f"all is the same {when}", False, "; ".join(different[:5]))
    return not different


def generated():
    tree, done, worked = Tree(), [], 0
    for root in ROOTS:
        os.chmod(root, 0o777)
    for number in range(STEPS):
        what, user, path, work, remember = step(tree)
        done.append(f"{user[0]}: {what} {path}")
        ended = [as_user(user, lambda root=root: work(os.path.join(root, path))) for root in ROOTS]
        if ended[0] != ended[1]:
            return check(f"seed {SEED}, step {number}", False, f"{done[-1]}: {ended[0]}, on the local file system {ended[1]}; before: {done[-6:]}")
        worked += ended[0] in ("ok", 0)
        if remember and ended[0] == "ok":
            remember()
        if number % 6 == 5 and not same(tree, f"(seed {SEED}, after step {number}: {done[-6:]})"):
            return None
    check(f"{STEPS} steps, {worked} of which succeeded, seed {SEED}: outcomes, lists, modes and permissions are those of the local file system", True)
    return check("the steps did something", worked > STEPS // 4 and len(tree.dirs) > 3 and len(tree.others) > 3)


def by_tools():
    """What getfacl and tar show of it."""
    name = os.path.join(ROOTS[0], "tools")
    os.mkdir(name)
    for options in (["-m", "u:3001:rwx,g:3102:r-x"], ["-d", "-m", "u:3002:rw-"]):
        subprocess.run(["setfacl", *options, name], check=True)
    with open(os.path.join(name, "file"), "wb"):
        pass
    shown = subprocess.run(["getfacl", "-cnpE", name], check=True, capture_output=True, text=True).stdout.split()
    check("getfacl shows what setfacl set", shown == ["user::rwx", "user:3001:rwx", "group::r-x", "group:3102:r-x", "mask::rwx", "other::r-x", "default:user::rwx", "default:user:3002:rw-", "default:group::r-x", "default:mask::rwx", "default:other::r-x"], shown)
    check("ls shows that there is a list", subprocess.run(["ls", "-ld", name], capture_output=True, text=True).stdout[10:11] == "+")
    subprocess.run(["cp", "-a", name, name + "-copy"], check=True)
    check("cp -a copies lists", [of(name)[4], of(name + "/file")[4]] == [of(name + "-copy")[4], of(name + "-copy/file")[4]])
    check("lists are among the attributes", set(LISTS) <= set(os.listxattr(name)), os.listxattr(name))


by_tools()
generated()
finish()
