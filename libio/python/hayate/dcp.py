"""Storage for torch.distributed.checkpoint: versions of the checkpoint library, which appear whole or not at all.

    import torch.distributed.checkpoint as dcp
    from hayate.dcp import HayateReader, HayateWriter, latest

    writer = HayateWriter("/checkpoints/run7", copies=1)
    future = dcp.async_save(state, storage_writer=writer, checkpoint_id=str(step))    # or dcp.save
    ...
    if (step := latest("/checkpoints/run7")) is not None:
        dcp.load(state, storage_reader=HayateReader("/checkpoints/run7"), checkpoint_id=str(step))

The path is the directory of the sets and the set's name in it. A checkpoint's id is its version: a number. Without one, saving takes the number after the
newest, and loading the newest. Every rank of torch is a rank of the version, and the coordinator is one more, which writes the metadata and
commits when all have sealed. A version that is there is never written to again (FileExistsError).

Tensors are written from their own memory and, where shape and type allow it, read into it. Every byte that is read was checked.
"""

import io
import os
import pickle
import posixpath
import uuid
from dataclasses import dataclass, replace
from typing import Any, Optional, Tuple

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, WriteItemType
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from .checkpoints import Checkpoints

#: The region with what the coordinator knows; each rank's data are in a region of its own.
_METADATA = "metadata"
#: Bytes that are read at once of a region with small items: the library checks whole blocks of 1 MiB.
_WINDOW_BYTES = 4 << 20


@dataclass(frozen=True)
class _Place:
    """Where an item lies, and what it is: raw bytes of a tensor, or, without a type, a stream of torch.save or of the planner."""

    region: str
    offset: int
    length: int
    dtype: Optional[torch.dtype] = None
    shape: Optional[Tuple[int, ...]] = None


@dataclass(frozen=True)
class _Attempt:
    """What the coordinator tells all ranks."""

    version: int
    group: str
    rank: int
    nranks: int


def _opened(set_path, fs, group=None):
    """The sets in the path's directory, and the set's name."""
    root, name = posixpath.split(os.fspath(set_path).rstrip("/"))
    return Checkpoints(fs, root or "/", group), name


def versions(set_path, fs=None):
    """Numbers of the versions that are committed, ascending."""
    checkpoints, name = _opened(set_path, fs)
    return checkpoints.versions(name)


def latest(set_path, fs=None):
    """Number of the newest version to restart from; None if there is none."""
    checkpoints, name = _opened(set_path, fs)
    return checkpoints.latest(name)


def prune(set_path, keep=1, fs=None):
    """Removes all but the newest `keep` complete versions, pinned ones and the newest durable one; answers how many went."""
    checkpoints, name = _opened(set_path, fs)
    return checkpoints.prune(name, keep)


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
        self.set_path, self.fs = os.fspath(set_path), fs
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
    """Writes versions of the set `set_path`. Options are those of Checkpoints.begin: `copies`, `parity`, `flush`, and `timeout`, after which a commit
    gives up waiting for a rank."""

    def __init__(self, set_path, fs=None, **options):
        super().__init__(set_path, fs)
        self.options = options
        self._attempt: Optional[_Attempt] = None

    def set_up_storage_writer(self, is_coordinator, *args, **kwargs):
        self._attempt = None
        self.version, self._asked = self._asked, None

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        """As the coordinator: chooses the version, and a group that no other attempt has."""
        checkpoints, name = _opened(self.set_path, self.fs)
        there = checkpoints.versions(name)
        version = self.version if self.version is not None else max(there, default=-1) + 1
        if version in there:
            raise FileExistsError(17, "this version is committed: use another number", f"{self.set_path} version {version}")
        group, nranks = uuid.uuid4().hex, len(plans) + 1
        attempts = [_Attempt(version, group, rank, nranks) for rank in range(nranks)]
        self._attempt = attempts[-1]
        return [replace(plan, storage_data=attempt) for plan, attempt in zip(plans, attempts)]

    def _begin(self, attempt):
        checkpoints, name = _opened(self.set_path, self.fs, attempt.group)
        return checkpoints.begin(name, attempt.version, attempt.rank, attempt.nranks, **self.options)

    def write_data(self, plan, planner):
        attempt: _Attempt = plan.storage_data
        self.version = attempt.version
        region = f"rank{attempt.rank}"
        results, offset = [], 0
        writer = self._begin(attempt)
        try:
            for item in plan.items:
                place, data = self._item(item, planner, region, offset)
                if place.length:
                    writer.write(region, data, offset)
                offset += place.length
                results.append(WriteResult(index=item.index, size_in_bytes=place.length, storage_data=place))
            # The verdict is the coordinator's, in finish; torch tells all ranks of it.
            writer.seal()
        except BaseException:
            writer.__exit__(BaseException)
            raise
        future: Future = Future()
        future.set_result(results)
        return future

    def _item(self, item, planner, region, offset):
        """Where an item goes, and its bytes."""
        data = planner.resolve_data(item)
        if item.type == WriteItemType.BYTE_IO:
            stream = data.getbuffer()
            return _Place(region, offset, stream.nbytes), stream
        tensor = data.detach().cpu()
        if not _is_plain(tensor):
            stream = io.BytesIO()
            torch.save(tensor.clone(), stream)
            return _Place(region, offset, stream.getbuffer().nbytes), stream.getbuffer()
        array = _bytes_of(tensor.contiguous())
        return _Place(region, offset, array.nbytes, tensor.dtype, tuple(tensor.shape)), array

    def finish(self, metadata, results):
        """As the coordinator, when all ranks have sealed: writes the metadata and commits."""
        metadata = replace(metadata, storage_data={each.index: each.storage_data for rank in results for each in rank})
        metadata.storage_meta = self.storage_meta()
        with self._begin(self._attempt) as writer:
            writer.write(_METADATA, pickle.dumps(metadata))

    def storage_meta(self):
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=uuid.uuid4().hex)


class HayateReader(_Storage, StorageReader):
    """Reads versions of the set `set_path`, with any number of ranks."""

    def __init__(self, set_path, fs=None):
        super().__init__(set_path, fs)
        self._places: Any = None

    def read_metadata(self, *args, **kwargs):
        checkpoints, name = _opened(self.set_path, self.fs)
        self.version, self._asked = self._asked, None
        if self.version is None:
            self.version = checkpoints.latest(name)
        if self.version is None:
            raise FileNotFoundError(2, "there is no version to load", self.set_path)
        metadata = pickle.loads(checkpoints.open(name, self.version).read(_METADATA))
        metadata.storage_meta.load_id = uuid.uuid4().hex
        return metadata

    def set_up_storage_reader(self, metadata, is_coordinator, *args, **kwargs):
        self._places = metadata.storage_data
        # Only some ranks may have read the metadata themselves.
        self.version = int(metadata.storage_meta.checkpoint_id)

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        return plans

    def read_data(self, plan, planner):
        checkpoints, name = _opened(self.set_path, self.fs)
        stored = checkpoints.open(name, self.version)
        by_region = {}
        for item in plan.items:
            place = self._places[item.storage_index]
            by_region.setdefault(place.region, []).append((place.offset, place, item))
        for region, items in by_region.items():
            window = _Window(stored, region)
            for _, place, item in sorted(items, key=lambda each: each[0]):
                _read_item(window, place, item, planner)
        future: Future = Future()
        future.set_result(None)
        return future


class _Window:
    """A region from which small items are read together."""

    def __init__(self, stored, region):
        self.stored, self.region = stored, region
        self._start, self._data = 0, memoryview(b"")

    def read_into(self, buffer, offset):
        """All of a buffer of bytes."""
        view = memoryview(buffer)
        if view.nbytes >= _WINDOW_BYTES:
            self._whole(self.stored.read_into(self.region, buffer, offset), view.nbytes, offset)
            return
        done = 0
        while done < view.nbytes:
            part = self._part(offset + done)[: view.nbytes - done]
            self._whole(min(len(part), 1), 1, offset + done)
            view[done:done + len(part)] = part
            done += len(part)

    def _part(self, offset):
        """What is at hand from a place on, fetched if it is nothing."""
        if not self._start <= offset < self._start + len(self._data):
            self._start = offset // _WINDOW_BYTES * _WINDOW_BYTES
            room = bytearray(_WINDOW_BYTES)
            self._data = memoryview(room)[: self.stored.read_into(self.region, room, self._start)]
        return self._data[offset - self._start:]

    def _whole(self, got, wanted, offset):
        if got != wanted:
            raise EOFError(f"region {self.region} of version {self.stored.version} ends before byte {offset + wanted}: use an older version")


def _read_item(window, place, item, planner):
    if item.type == LoadItemType.BYTE_IO:
        planner.load_bytes(item, io.BytesIO(_all(window, place)))
        return
    target = planner.resolve_tensor(item).detach()
    if not _read_in_place(window, place, item, target):
        tensor = narrow_tensor_by_index(_tensor(window, place), item.storage_offsets, item.lengths)
        if target.size() != tensor.size():
            raise ValueError(f"{item.storage_index}: the checkpoint has size {tuple(tensor.size())}, the program {tuple(target.size())}")
        target.copy_(tensor)
    planner.commit_tensor(item, target)


def _read_in_place(window, place, item, target):
    """Reads a whole item into the program's own memory, if that has its shape and type."""
    whole = place.dtype is not None and tuple(item.lengths) == place.shape == tuple(target.shape)
    if not whole or target.dtype != place.dtype or target.device.type != "cpu" or not target.is_contiguous():
        return False
    if place.length:
        window.read_into(_bytes_of(target), place.offset)
    return True


def _all(window, place):
    data = bytearray(place.length)
    if place.length:
        window.read_into(data, place.offset)
    return data


def _tensor(window, place):
    data = _all(window, place)
    if place.dtype is None:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not data:
        return torch.empty(place.shape, dtype=place.dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(place.dtype).reshape(place.shape)


__all__ = ["HayateReader", "HayateWriter", "latest", "prune", "versions"]
