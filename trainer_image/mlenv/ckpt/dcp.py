"""torch.distributed.checkpoint, with its pickle behind a guard.

DCP keeps tensors in files that ``torch.load(weights_only=True)`` reads, and where they lie in ``.metadata``,
which is a pickle. Here that pickle is opened only from bytes whose hash the seal has, by an unpickler that
knows the few classes it needs; entries that are not tensors, which DCP would unpickle freely, are refused.
"""

from __future__ import annotations

import io
import pickle
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.utils.serialization import config

from mlenv.ckpt import failpoints
from mlenv.ckpt.errors import NotVerified, TogetherFailed
from mlenv.ckpt.group import describe, joined

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
    from torch.distributed.checkpoint.storage import WriteResult
    from torch.futures import Future

    from mlenv.ckpt.group import Group

MODULE: Final = "torch.distributed.checkpoint"
ALLOWED: Final = frozenset(
    {
        (f"{MODULE}.metadata", "Metadata"),
        (f"{MODULE}.metadata", "MetadataIndex"),
        (f"{MODULE}.metadata", "TensorStorageMetadata"),
        (f"{MODULE}.metadata", "ChunkStorageMetadata"),
        (f"{MODULE}.metadata", "TensorProperties"),
        (f"{MODULE}.metadata", "_MEM_FORMAT_ENCODING"),
        (f"{MODULE}.metadata", "StorageMeta"),
        (f"{MODULE}.filesystem", "_StorageInfo"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
    }
)


class Writer(FileSystemWriter):
    """DCP's writer of files, each forced to the disk; nothing of this machine's paths is kept."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(folder, single_file_per_rank=True, sync_files=True, thread_count=1, overwrite=False)
        self._own_rank = rank

    def storage_meta(self) -> StorageMeta | None:
        """Without the path, which would be pickled."""
        return StorageMeta(checkpoint_id="", save_id="")

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """As DCP does."""
        done: Future[list[WriteResult]] = super().write_data(plan, planner)
        failpoints.hit("write", self._own_rank)
        return done


class Reader(FileSystemReader):
    """DCP's reader, over metadata that was verified, and files that the seal lists."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The verified one; the file is not opened again."""
        del args, kwargs
        return self._metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only what DCP's metadata is made of."""
        if (module, name) in ALLOWED or (module == "torch" and isinstance(getattr(torch, name), torch.dtype)):
            return super().find_class(module, name)
        raise NotVerified(f"the metadata asks for {module}.{name}, which no checkpoint needs: not opened")


def parse_metadata(data: bytes, files: Collection[str]) -> Metadata:
    """DCP's metadata, from bytes that were verified; `files` are the names that it may refer to."""
    try:
        found = _Unpickler(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, ValueError, TypeError) as error:
        raise NotVerified(f"DCP's metadata cannot be read: {error}") from None
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
        raise NotVerified("DCP's metadata holds something else")
    for name, entry in found.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise NotVerified(f"{name} in DCP's metadata is no tensor: only tensors are read")
    strangers = {info.relative_path for info in found.storage_data.values()} - set(files)
    if strangers:
        raise NotVerified(f"DCP's metadata refers to {min(strangers)}, which the seal does not list")
    return found


def save(tensors: dict[str, torch.Tensor], folder: Path, group: Group, rank: int) -> None:
    """Write one set of tensors; all ranks of `group` take part, each with what it has.

    Without the zip format's own sums, which nobody asks for: the seal has every file's SHA-256. This thread's
    setting alone.
    """
    with _guarded(group), config.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
        state_dict_saver.save(
            tensors, storage_writer=Writer(folder, rank), process_group=group.pg, no_dist=group.alone
        )


def load(targets: dict[str, torch.Tensor], folder: Path, metadata: Metadata) -> None:
    """Read into the memory of `targets` what this rank holds of them; asks no other rank."""
    with _guarded(None):
        state_dict_loader.load(targets, storage_reader=Reader(folder, metadata), no_dist=True)


@contextmanager
def _guarded(group: Group | None) -> Iterator[None]:
    """Failures as ours: DCP's are no Exceptions, and would end a thread that catches those.

    It also warns that it works alone, which is what it was told to do.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            raise TogetherFailed(_words(error, group)) from None


def _words(error: CheckpointException, group: Group | None) -> str:
    several = group is not None and not group.alone
    by_rank = {group.ranks[one] if group else one: describe(why[0]) for one, why in error.failures.items()}
    return joined(by_rank) if several else "; ".join(by_rank.values())
