"""The fsspec file system `hayate://`.

    with fsspec.open("hayate:///results/a.csv", cluster="cluster.toml") as file: ...
    pandas.read_parquet("hayate:///results/table")

`cluster` and the other options are those of hayate.FileSystem.
"""

import datetime
import os
import posixpath
import uuid

from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from .filesystem import FileSystem


class HayateFileSystem(AbstractFileSystem):
    """Files of a Hayate cluster. Listings are not kept: every question is asked of the servers."""

    protocol = "hayate"
    root_marker = "/"
    local_file = False

    def __init__(self, cluster=None, timeout=None, memory=None, trust=None, auto_mkdir=False, **kwargs):
        super().__init__(**kwargs)
        self.auto_mkdir = auto_mkdir
        self.client = FileSystem(cluster, timeout=timeout, memory=memory, trust=trust)

    @property
    def fsid(self):
        return f"hayate_{self.client._made_of[0] or ''}"

    @classmethod
    def _strip_protocol(cls, path):
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = stringify_path(path)
        for prefix in ("hayate://", "hayate:"):
            if path.startswith(prefix):
                path = path[len(prefix):]
                break
        return "/" + path.strip("/")

    def unstrip_protocol(self, name):
        return "hayate://" + self._strip_protocol(name)

    # --- what is there ---

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        return self._told(path, self.client.lstat(path))

    def _told(self, path, stat):
        link = stat.is_symlink()
        told = {"name": path, "islink": link}
        if link:
            told["destination"] = self.client.readlink(path)
            try:
                stat = self.client.stat(path)
            except OSError:
                pass  # It leads nowhere.
        told["type"] = "directory" if stat.is_dir() else "file" if stat.is_file() else "other"
        told["size"] = 0 if stat.is_dir() else stat.size
        told["created"] = stat.btime_ns / 1e9
        for name in ("mode", "uid", "gid", "ino", "nlink", "version"):
            told[name] = getattr(stat, name)
        told["mtime"] = stat.mtime_ns / 1e9
        return told

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        try:
            entries = list(self.client.scandir(path, attributes=detail))
        except NotADirectoryError:
            return [self.info(path)] if detail else [path]
        if not detail:
            return sorted(entry.path for entry in entries)
        told = (self._told(entry.path, entry.stat()) for entry in entries if entry.stat() is not None)
        return sorted(told, key=lambda info: info["name"])

    def exists(self, path, **kwargs):
        return self.client.exists(self._strip_protocol(path))

    def lexists(self, path, **kwargs):
        path = self._strip_protocol(path)
        return self.client.islink(path) or self.client.exists(path)

    def isfile(self, path):
        return self.client.isfile(self._strip_protocol(path))

    def isdir(self, path):
        return self.client.isdir(self._strip_protocol(path))

    def islink(self, path):
        return self.client.islink(self._strip_protocol(path))

    def created(self, path):
        return self._time(self.info(path)["created"])

    def modified(self, path):
        return self._time(self.info(path)["mtime"])

    @staticmethod
    def _time(seconds):
        return datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)

    # --- names ---

    def mkdir(self, path, create_parents=True, **kwargs):
        path = self._strip_protocol(path)
        (self.client.makedirs if create_parents else self.client.mkdir)(path)

    def makedirs(self, path, exist_ok=False):
        path = self._strip_protocol(path)
        try:
            self.client.makedirs(path)
        except FileExistsError:
            if not exist_ok or not self.client.isdir(path):
                raise

    def rmdir(self, path):
        self.client.rmdir(self._strip_protocol(path))

    def rm_file(self, path):
        self.client.remove(self._strip_protocol(path))

    def _rm(self, path):
        self.rm_file(path)

    def rm(self, path, recursive=False, maxdepth=None):
        if maxdepth is not None:
            super().rm(path, recursive=recursive, maxdepth=maxdepth)
            return
        for each in self.expand_path(path) if self._has_magic(path) else self._as_list(path):
            each = self._strip_protocol(each)
            if not self.client.lstat(each).is_dir():
                self.client.remove(each)
            elif recursive:
                self.client.rmtree(each)
            else:
                raise IsADirectoryError(f"{each} is a directory: set recursive=True")

    @staticmethod
    def _as_list(path):
        return path if isinstance(path, list) else [path]

    def _has_magic(self, path):
        return any(letter in stringify_path(each) for each in self._as_list(path) for letter in "*?[")

    def mv(self, path1, path2, recursive=True, maxdepth=None, **kwargs):
        """One rename, of directories too; patterns and lists are copied and removed."""
        if self._has_magic(path1) or isinstance(path1, list) or isinstance(path2, list):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        into = stringify_path(path2).endswith("/")
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.client.isdir(path2) or into:
            path2 = posixpath.join(path2, posixpath.basename(path1))
        self._make_parent(path2)
        self.client.rename(path1, path2)

    mv_file = mv

    def cp_file(self, path1, path2, **kwargs):
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.client.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        self._make_parent(path2)
        self.client.copy(path1, path2)

    def link(self, src, dst, **kwargs):
        self.client.link(self._strip_protocol(src), self._strip_protocol(dst))

    def symlink(self, src, dst, **kwargs):
        self.client.symlink(self._strip_protocol(src), self._strip_protocol(dst))

    def touch(self, path, truncate=True, **kwargs):
        path = self._strip_protocol(path)
        self._make_parent(path)
        with self.client.open(path, "wb" if truncate else "ab", 0):
            pass
        self.client.utime(path)

    # --- content ---

    def _make_parent(self, path):
        if self.auto_mkdir:
            self.client.makedirs(posixpath.dirname(path), exist_ok=True)

    def _open(self, path, mode="rb", block_size=None, autocommit=True, cache_options=None, **kwargs):
        path = self._strip_protocol(path)
        buffering = block_size if isinstance(block_size, int) and block_size > 1 else -1
        if "r" not in mode:
            self._make_parent(path)
        if autocommit or "r" in mode or "a" in mode:
            return self.client.open(path, mode, buffering)
        return Replacing(self.client, path, mode, buffering)

    def cat_file(self, path, start=None, end=None, **kwargs):
        path = self._strip_protocol(path)
        if start is None and end is None:
            return self.client.get(path)
        with self.client.open(path, "rb", 0) as file:
            size = file.stat().size if (start or 0) < 0 or end is None or end < 0 else None
            start, end = _place(start, size, 0), _place(end, size, size)
            return file.pread(max(end - start, 0), start)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        path = self._strip_protocol(path)
        self._make_parent(path)
        if mode == "create":
            with self.client.open(path, "xb", 0) as file:
                file.write(value)
        else:
            self.client.put(path, value)

    def disk_usage(self):
        """Total and free bytes of all servers."""
        space = self.client.space()
        return space.total_bytes, space.free_bytes


def _place(given, size, otherwise):
    if given is None:
        return otherwise
    return max(given + size, 0) if given < 0 else given


class Replacing:
    """A file that is written beside its place and takes it when the transaction ends, at once and whole."""

    def __init__(self, client, path, mode, buffering):
        self._client, self._path = client, path
        self._beside = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.{os.getpid()}.{uuid.uuid4().hex}")
        self._file = client.open(self._beside, mode, buffering)

    def commit(self):
        self._file.close()
        self._client.rename(self._beside, self._path)

    def discard(self):
        self._file.close()
        self._client.remove(self._beside)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
