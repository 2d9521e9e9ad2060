"""Files and checkpoints of a Hayate cluster, without a mount.

    import hayate

    fs = hayate.connect()                       # the cluster of HAYATE_CLUSTER, or the user's usual one
    fs.makedirs("/results", exist_ok=True)
    with fs.open("/results/log", "a") as log:   # as the built-in open()
        log.write("done\\n")
    path = hayate.Path("/results", fs=fs)       # as a pathlib.Path
    print(sorted(path.glob("*")))

The functions of this module do the same with a connection that is made when it is first needed: `hayate.open("/results/log")`.
What fails raises the OSError of its errno (FileNotFoundError, PermissionError, ...). Other threads run meanwhile.
"""

from ._library import version
from .checkpoints import Advice, Checkpoints, State, Version, VersionInfo, Writer, advise, time_left
from .files import RawFile
from .filesystem import Entry, FileSystem, Space, Stat
from .paths import Path

__version__ = version()

_default = None


def connect(cluster=None, **options):
    """A connection: see FileSystem."""
    return FileSystem(cluster, **options)


def default():
    """The connection that this module's functions use."""
    global _default
    if _default is None:
        _default = FileSystem()
    return _default


def _forward(name):
    method = getattr(FileSystem, name)

    def function(*args, **kwargs):
        return getattr(default(), name)(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = method.__doc__
    return function


_FUNCTIONS = (
    "open", "stat", "lstat", "exists", "isfile", "isdir", "islink", "listdir", "scandir", "walk", "mkdir", "makedirs", "remove", "rmdir",
    "rmtree", "rename", "link", "symlink", "readlink", "truncate", "chmod", "chown", "utime", "put", "get", "copy", "getxattr", "setxattr",
    "listxattr", "removexattr", "space", "flush_to_tier",
)
for _name in _FUNCTIONS:
    globals()[_name] = _forward(_name)

__all__ = ["Advice", "Checkpoints", "Entry", "FileSystem", "Path", "RawFile", "Space", "Stat", "State", "Version", "VersionInfo", "Writer", "advise", "connect", "default", "time_left", "version", *_FUNCTIONS]
