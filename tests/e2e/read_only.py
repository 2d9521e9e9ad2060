"""A mount with --read-only refuses every change with EROFS and reads all. Usage: read_only.py MOUNT READ-ONLY-MOUNT"""

import errno
import os
import sys

from checks import check, fails_with, finish, read, write

WRITABLE, FIXED = sys.argv[1:3]

os.mkdir(os.path.join(WRITABLE, "fixed"))
write(os.path.join(WRITABLE, "fixed", "f"), b"content")
path = lambda name: os.path.join(FIXED, "fixed", name)
check("reading", read(path("f")) == b"content" and os.listdir(path("")) == ["f"])
changes = {
    "open for writing": (os.open, path("f"), os.O_WRONLY),
    "create": (os.open, path("new"), os.O_CREAT | os.O_WRONLY),
    "truncate": (os.truncate, path("f"), 1),
    "unlink": (os.unlink, path("f")),
    "mkdir": (os.mkdir, path("d")),
    "rmdir": (os.rmdir, path("")),
    "rename": (os.rename, path("f"), path("g")),
    "link": (os.link, path("f"), path("g")),
    "symlink": (os.symlink, "f", path("g")),
    "mkfifo": (os.mkfifo, path("g")),
    "chmod": (os.chmod, path("f"), 0o600),
    "chown": (os.chown, path("f"), 1, 1),
    "utime": (os.utime, path("f"), (1, 1)),
    "setxattr": (os.setxattr, path("f"), "user.a", b"1"),
}
for name, (call, *arguments) in changes.items():
    check(f"{name}: EROFS", fails_with(errno.EROFS, call, *arguments))
check("nothing changed", read(os.path.join(WRITABLE, "fixed", "f")) == b"content" and os.listdir(os.path.join(WRITABLE, "fixed")) == ["f"])
finish()
