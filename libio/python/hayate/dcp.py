"""Storage for torch.distributed.checkpoint: versions that appear whole or not at all.

    import torch.distributed.checkpoint as dcp
    from hayate.dcp import HayateReader, HayateWriter, latest

    writer = HayateWriter("/checkpoints/run7")
    future = dcp.async_save(state, storage_writer=writer, checkpoint_id=str(step))    # or dcp.save
    ...
    if (step := latest("/checkpoints/run7")) is not None:
        dcp.load(state, storage_reader=HayateReader("/checkpoints/run7"), checkpoint_id=str(step))

A checkpoint's id is its version: a number. Without one, saving takes the number after the newest, and loading the newest. All ranks write beside each
other; the version is published by the coordinator with one link, after everything that it names is durable. A version that is there is never
written to again (FileExistsError), and what a dead run left is removed by `prune`.

Tensors are written from their own memory and, where shape and type allow it, read into it.
"""

import io
import os
import pickle
import posixpath
import re
import uuid
from dataclasses import dataclass, replace
from typing import Any, Optional, Tuple

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, WriteItemType
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from .filesystem import FileSystem

#: What lies in a set's directory: a file for each published version, and directories with the data of attempts.
_VERSION = re.compile(r"v(\d+)")
_DATA = re.compile(r"v(\d+)\.data\.[0-9a-f]{32}")
_FORMAT = 1


@dataclass(frozen=True)
class _Place:
    """Where an item lies, seen from the set's directory, and what it is: raw bytes of a tensor, or, without a type, a stream of torch.save or of the planner."""

    file: str
    offset: int
    length: int
    dtype: Optional[torch.dtype] = None
    shape: Optional[Tuple[int, ...]] = None


@dataclass(frozen=True)
class _Attempt:
    """What the coordinator tells all ranks."""

    version: int
    directory: str
    rank: int


def _versions(fs, set_path):
    try:
        names = fs.listdir(set_path)
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in map(_VERSION.fullmatch, names) if match)


def versions(set_path, fs=None):
    """Numbers of the versions that can be loaded, ascending."""
    return _versions(fs or _default(), set_path)


def latest(set_path, fs=None):
    """Number of the newest version; None if there is none."""
    return max(versions(set_path, fs), default=None)


def prune(set_path, keep=1, fs=None):
    """Removes all versions but the newest `keep` (at least one), and the data of attempts older than the newest version, which nobody will
    publish any more. Answers the numbers that are gone."""
    fs = fs or _default()
    there = _versions(fs, set_path)
    gone = there[: -max(keep, 1)]
    for version in gone:
        manifest = _read_manifest(fs, set_path, version)
        fs.remove(_manifest_path(set_path, version))
        _remove_tree(fs, posixpath.join(set_path, manifest["directory"]))
    needed = {_read_manifest(fs, set_path, version)["directory"] for version in there[len(gone):]}
    for name in fs.listdir(set_path) if there else ():
        data = _DATA.fullmatch(name)
        if data and name not in needed and int(data[1]) <= there[-1]:
            _remove_tree(fs, posixpath.join(set_path, name))
    return gone


def _remove_tree(fs, path):
    try:
        fs.rmtree(path)
    except FileNotFoundError:
        pass


def _default():
    import hayate

    return hayate.default()


def _manifest_path(set_path, version):
    return posixpath.join(set_path, f"v{version}")


def _read_manifest(fs, set_path, version):
    manifest = pickle.loads(fs.get(_manifest_path(set_path, version)))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"{_manifest_path(set_path, version)} has format {manifest['format']}: use the release of hayate that wrote it")
    return manifest


def _number(checkpoint_id):
    """The version that an id says: a number, or a path that ends in one."""
    text = posixpath.basename(os.fspath(checkpoint_id).rstrip("/"))
    if not text.isdigit():
        raise ValueError(f"checkpoint id {checkpoint_id!r}: it is the version, a number such as '1200'")
    return int(text)


def _bytes_of(tensor):
    """A tensor's memory as an array of bytes, without a copy; it must be contiguous and on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _is_plain(tensor):
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_complex() and not tensor.is_conj()


class _Storage:
    def __init__(self, set_path, fs=None):
        super().__init__()
        self.set_path = set_path.rstrip("/") if isinstance(set_path, str) else os.fspath(set_path)
        self.fs: FileSystem = fs or _default()
        self.version: Optional[int] = None
        #: What the next save or load was asked for; torch says nothing when no id was given.
        self._asked: Optional[int] = None

    @property
    def checkpoint_id(self):
        return None if self.version is None else str(self.version)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id):
        try:
            _number(checkpoint_id)
        except (TypeError, ValueError):
            return False
        return True

    def reset(self, checkpoint_id=None):
        self._asked = self.version = None if checkpoint_id is None else _number(checkpoint_id)


class HayateWriter(_Storage, StorageWriter):
    """Writes versions below the directory `set_path`. `sync` makes the data durable before the version is published."""

    def __init__(self, set_path, fs=None, sync=True):
        super().__init__(set_path, fs)
        self.sync = sync
        self._attempt: Optional[_Attempt] = None

    def set_up_storage_writer(self, is_coordinator, *args, **kwargs):
        self._attempt = None
        self.version, self._asked = self._asked, None

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        """As the coordinator: chooses the version, and makes a directory that no other attempt has."""
        self.fs.makedirs(self.set_path, exist_ok=True)
        there = _versions(self.fs, self.set_path)
        version = self.version if self.version is not None else max(there, default=-1) + 1
        if version in there:
            raise FileExistsError(17, "this version is committed: use another number", _manifest_path(self.set_path, version))
        directory = f"v{version}.data.{uuid.uuid4().hex}"
        self.fs.mkdir(posixpath.join(self.set_path, directory))
        attempts = [_Attempt(version, directory, rank) for rank in range(len(plans))]
        self._attempt = attempts[0]
        return [replace(plan, storage_data=attempt) for plan, attempt in zip(plans, attempts)]

    def write_data(self, plan, planner):
        attempt: _Attempt = plan.storage_data
        self.version = attempt.version
        name = posixpath.join(attempt.directory, str(attempt.rank))
        results, offset = [], 0
        # Unbuffered: each item goes to the servers from its own memory.
        with self.fs.open(posixpath.join(self.set_path, name), "xb", 0) as file:
            for item in plan.items:
                place, data = self._item(item, planner, name, offset)
                if len(data):
                    file.pwrite(data, offset)
                offset += place.length
                results.append(WriteResult(index=item.index, size_in_bytes=place.length, storage_data=place))
            if self.sync:
                file.sync()
        future: Future = Future()
        future.set_result(results)
        return future

    def _item(self, item, planner, name, offset):
        """Where an item goes, and its bytes."""
        data = planner.resolve_data(item)
        if item.type == WriteItemType.BYTE_IO:
            stream = data.getbuffer()
            return _Place(name, offset, stream.nbytes), stream
        tensor = data.detach().cpu()
        if not _is_plain(tensor):
            stream = io.BytesIO()
            torch.save(tensor.clone(), stream)
            return _Place(name, offset, stream.getbuffer().nbytes), stream.getbuffer()
        array = _bytes_of(tensor.contiguous())
        return _Place(name, offset, array.nbytes, tensor.dtype, tuple(tensor.shape)), array

    def finish(self, metadata, results):
        """As the coordinator, when all ranks have written: publishes the version."""
        attempt = self._attempt
        metadata = replace(metadata, storage_data={each.index: each.storage_data for rank in results for each in rank})
        metadata.storage_meta = self.storage_meta()
        content = pickle.dumps({"format": _FORMAT, "directory": attempt.directory, "metadata": metadata})
        beside = posixpath.join(self.set_path, attempt.directory, "manifest")
        with self.fs.open(beside, "xb", 0) as file:
            file.pwrite(content, 0)
            if self.sync:
                file.sync()
        # At once, whole, and only if nobody was faster.
        self.fs.link(beside, _manifest_path(self.set_path, attempt.version))

    def storage_meta(self):
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=uuid.uuid4().hex)


class HayateReader(_Storage, StorageReader):
    """Reads versions below the directory `set_path`, with any number of ranks."""

    def __init__(self, set_path, fs=None):
        super().__init__(set_path, fs)
        self._places: Any = None

    def read_metadata(self, *args, **kwargs):
        self.version, self._asked = self._asked, None
        if self.version is None:
            self.version = max(_versions(self.fs, self.set_path), default=None)
        if self.version is None:
            raise FileNotFoundError(2, "there is no version to load", self.set_path)
        manifest = _read_manifest(self.fs, self.set_path, self.version)
        metadata = manifest["metadata"]
        metadata.storage_meta.load_id = uuid.uuid4().hex
        return metadata

    def set_up_storage_reader(self, metadata, is_coordinator, *args, **kwargs):
        self._places = metadata.storage_data

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        return plans

    def read_data(self, plan, planner):
        by_file = {}
        for item in plan.items:
            place = self._places[item.storage_index]
            by_file.setdefault(place.file, []).append((place.offset, place, item))
        for name, items in by_file.items():
            with self.fs.open(posixpath.join(self.set_path, name), "rb", 0) as file:
                for _, place, item in sorted(items, key=lambda each: each[0]):
                    self._read_item(file, place, item, planner)
        future: Future = Future()
        future.set_result(None)
        return future

    def _read_item(self, file, place, item, planner):
        if item.type == LoadItemType.BYTE_IO:
            planner.load_bytes(item, io.BytesIO(_all(file, place)))
            return
        target = planner.resolve_tensor(item).detach()
        if not self._read_in_place(file, place, item, target):
            tensor = narrow_tensor_by_index(_tensor(file, place), item.storage_offsets, item.lengths)
            if target.size() != tensor.size():
                raise ValueError(f"{item.storage_index}: the checkpoint has size {tuple(tensor.size())}, the program {tuple(target.size())}")
            target.copy_(tensor)
        planner.commit_tensor(item, target)

    @staticmethod
    def _read_in_place(file, place, item, target):
        """Reads a whole item into the program's own memory, if that has its shape and type."""
        whole = place.dtype is not None and tuple(item.lengths) == place.shape == tuple(target.shape)
        if not whole or target.dtype != place.dtype or target.device.type != "cpu" or not target.is_contiguous():
            return False
        if place.length:
            _must(file.pread_into(_bytes_of(target), place.offset), place, file)
        return True


def _must(got, place, file):
    if got != place.length:
        raise EOFError(f"{file.name} ends before {place.offset + place.length}: this version is damaged, use an older one")


def _all(file, place):
    data = bytearray(place.length)
    if place.length:
        _must(file.pread_into(data, place.offset), place, file)
    return data


def _tensor(file, place):
    data = _all(file, place)
    if place.dtype is None:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not data:
        return torch.empty(place.shape, dtype=place.dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(place.dtype).reshape(place.shape)


__all__ = ["HayateReader", "HayateWriter", "latest", "prune", "versions"]
