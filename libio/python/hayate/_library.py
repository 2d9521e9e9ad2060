"""libhayate.so, as include/hayate.h declares it: every call answers a number that is not negative, or raises OSError.

ctypes lets other threads run during a call.
"""

import ctypes
import os
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from pathlib import Path

NAME_BYTES = 256


class StatRecord(Structure):
    _fields_ = [
        *((name, c_uint64) for name in ("ino", "size")),
        *((name, c_int64) for name in ("atime_ns", "mtime_ns", "ctime_ns", "btime_ns")),
        ("version", c_uint64),
        *((name, c_uint32) for name in ("mode", "nlink", "uid", "gid", "rdev", "chunk_bytes")),
    ]


class OptionsRecord(Structure):
    _fields_ = [("size", c_size_t), ("memory_bytes", c_uint64), ("timeout_ms", c_uint32), ("trust_ms", c_uint32)]


class OpenRecord(Structure):
    _fields_ = [("size", c_size_t), ("layout", c_char_p), ("expected_bytes", c_uint64)]


class EntryRecord(Structure):
    _fields_ = [("ino", c_uint64), ("kind", c_uint32), ("has_stat", c_uint32), ("stat", StatRecord), ("name", c_char * NAME_BYTES)]


class SpaceRecord(Structure):
    _fields_ = [("total_bytes", c_uint64), ("free_bytes", c_uint64), ("inodes", c_uint64)]


def _load():
    given = os.environ.get("HAYATE_LIBRARY")
    path = Path(given) if given else Path(__file__).with_name("libhayate.so")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"{path}: {error}; install the wheel, or set HAYATE_LIBRARY to a libhayate.so") from error


lib = _load()
lib.hayate_last_error.restype = c_char_p
lib.hayate_version.restype = c_char_p


def version():
    """The library's version."""
    return lib.hayate_version().decode()


def failure(number, path=None):
    """The OSError of a negative errno, with the library's words."""
    words = lib.hayate_last_error().decode(errors="replace")
    if path is not None:
        path = os.fsdecode(path)
        words = words[len(path) + 2:] if words.startswith(path + ": ") else words
        return OSError(-number, words, path)
    return OSError(-number, words)


def _check(number, function, arguments):
    if number >= 0:
        return number
    raise failure(number, getattr(function, "path_at", None) is not None and arguments[function.path_at] or None)


def _declare(name, result, *arguments):
    """Declares a function. Its first string is the path that an error names, but for those of checkpoints, whose words name the set."""
    function = getattr(lib, name)
    function.restype = result
    function.argtypes = arguments
    if c_char_p in arguments and not name.startswith("hayate_ckpt_"):
        function.path_at = arguments.index(c_char_p)
    function.errcheck = _check


_declare("hayate_connect_with", c_int, c_char_p, POINTER(OptionsRecord))
_declare("hayate_disconnect", c_int, c_int)
_declare("hayate_open_with", c_int, c_int, c_char_p, c_int, c_uint32, POINTER(OpenRecord))
_declare("hayate_close", c_int, c_int)
_declare("hayate_pread", c_int64, c_int, c_void_p, c_size_t, c_int64)
_declare("hayate_pwrite", c_int64, c_int, c_void_p, c_size_t, c_int64)
_declare("hayate_append", c_int64, c_int, c_void_p, c_size_t)
_declare("hayate_fsync", c_int, c_int)
_declare("hayate_flush", c_int, c_int)
_declare("hayate_ftruncate", c_int, c_int, c_int64)
_declare("hayate_copy", c_int64, c_int, c_int64, c_int, c_int64, c_uint64)
_declare("hayate_fstat", c_int, c_int, POINTER(StatRecord))
_declare("hayate_stat", c_int, c_int, c_char_p, POINTER(StatRecord))
_declare("hayate_lstat", c_int, c_int, c_char_p, POINTER(StatRecord))
_declare("hayate_truncate", c_int, c_int, c_char_p, c_int64)
_declare("hayate_chmod", c_int, c_int, c_char_p, c_uint32)
_declare("hayate_chown", c_int, c_int, c_char_p, c_uint32, c_uint32)
_declare("hayate_utime", c_int, c_int, c_char_p, c_int64, c_int64)
_declare("hayate_mkdir", c_int, c_int, c_char_p, c_uint32)
_declare("hayate_mkdir_all", c_int, c_int, c_char_p, c_uint32)
_declare("hayate_unlink", c_int, c_int, c_char_p)
_declare("hayate_rmdir", c_int, c_int, c_char_p)
_declare("hayate_rename", c_int, c_int, c_char_p, c_char_p)
_declare("hayate_link", c_int, c_int, c_char_p, c_char_p)
_declare("hayate_symlink", c_int, c_int, c_char_p, c_char_p)
_declare("hayate_readlink", c_int64, c_int, c_char_p, c_void_p, c_size_t)
_declare("hayate_put", c_int64, c_int, c_char_p, c_void_p, c_size_t, c_uint32)
_declare("hayate_get", c_int64, c_int, c_char_p, c_void_p, c_size_t)
_declare("hayate_opendir", c_int, c_int, c_char_p, c_int)
_declare("hayate_readdir", c_int, c_int, POINTER(EntryRecord))
_declare("hayate_closedir", c_int, c_int)
_declare("hayate_setxattr", c_int, c_int, c_char_p, c_char_p, c_void_p, c_size_t, c_int)
_declare("hayate_getxattr", c_int64, c_int, c_char_p, c_char_p, c_void_p, c_size_t)
_declare("hayate_listxattr", c_int64, c_int, c_char_p, c_void_p, c_size_t)
_declare("hayate_removexattr", c_int, c_int, c_char_p, c_char_p)
_declare("hayate_statfs", c_int, c_int, POINTER(SpaceRecord))
_declare("hayate_tier_flush", c_int, c_int, c_char_p)

__all__ = ["EntryRecord", "OptionsRecord", "SpaceRecord", "StatRecord", "byref", "failure", "lib", "version"]
