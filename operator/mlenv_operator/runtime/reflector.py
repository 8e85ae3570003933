"""What a list and a watch together tell of a collection: the part of the informer without I/O.

Messages go in, changes come out. After a re-list the difference to what was known comes out, deletions
included: a watch that was broken for too long never tells of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from sys import intern
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

V = TypeVar("V")
Raw = dict[str, Any]


class ObjectKey(NamedTuple):
    """Names one object of a kind; the namespace of a cluster-scoped one is empty."""

    namespace: str
    name: str


class ChangeType(StrEnum):
    """What happened to an object."""

    ADDED = "Added"
    MODIFIED = "Modified"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class Change(Generic[V]):
    """One object's view before and after."""

    type: ChangeType
    key: ObjectKey
    old: V | None
    new: V | None


@dataclass(frozen=True, slots=True)
class ListStarted:
    """A list begins: what it does not name is gone."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """Some objects of the list."""

    items: Sequence[Raw]


@dataclass(frozen=True, slots=True)
class ListEnded:
    """The list is complete, as of this resource version."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Raw


Message = ListStarted | ListPage | ListEnded | WatchEvent


class _Entry(NamedTuple, Generic[V]):
    uid: str
    view: V
    owner: Hashable | None


class Reflector(Generic[V]):
    """Slim views of a collection, by key and by owner.

    ``project`` makes the view of a raw object, or None when the object is none of our business; views are
    compared, and a change that leaves the view as it was is no change.
    """

    def __init__(
        self,
        project: Callable[[Raw], V | None],
        owner_of: Callable[[V], Hashable | None] = lambda _: None,
    ) -> None:
        self._project = project
        self._owner_of = owner_of
        self._entries: dict[ObjectKey, _Entry[V]] = {}
        self._owned: dict[Hashable, dict[ObjectKey, None]] = {}
        self._unlisted: set[ObjectKey] | None = None
        self.resource_version = ""
        """Where a watch has to go on."""
        self.synced = False
        """Whether a list has been complete once."""

    def feed(self, message: Message) -> list[Change[V]]:
        """What the message changes."""
        match message:
            case WatchEvent():
                return self._watched(message)
            case ListPage(items):
                return [change for raw in items for change in self._listed(raw)]
            case ListStarted():
                self._unlisted = set(self._entries)
                return []
            case ListEnded(resource_version):
                return self._end_list(resource_version)

    def get(self, key: ObjectKey) -> V | None:
        """The view of one object."""
        entry = self._entries.get(key)
        return None if entry is None else entry.view

    def by_owner(self, owner: Hashable) -> list[V]:
        """The views of all objects of an owner, in the order in which they came."""
        return [self._entries[key].view for key in self._owned.get(owner, ())]

    def owners(self) -> list[Hashable]:
        """Every owner that has an object."""
        return list(self._owned)

    def views(self) -> Iterator[V]:
        """All views."""
        return (entry.view for entry in self._entries.values())

    def __len__(self) -> int:
        """How many objects are known."""
        return len(self._entries)

    def _watched(self, event: WatchEvent) -> list[Change[V]]:
        changes: list[Change[V]] = []
        if event.type == "DELETED":
            changes = self._remove(_key(event.object))
        elif event.type in ("ADDED", "MODIFIED"):
            changes = self._upsert(event.object)
        self.resource_version = event.object["metadata"].get("resourceVersion") or self.resource_version
        return changes

    def _listed(self, raw: Raw) -> list[Change[V]]:
        if self._unlisted is not None:
            self._unlisted.discard(_key(raw))
        return self._upsert(raw)

    def _end_list(self, resource_version: str) -> list[Change[V]]:
        gone = sorted(self._unlisted or ())
        self._unlisted = None
        self.resource_version = resource_version
        self.synced = True
        return [change for key in gone for change in self._remove(key)]

    def _upsert(self, raw: Raw) -> list[Change[V]]:
        key, uid, view = _key(raw), str(raw["metadata"].get("uid", "")), self._project(raw)
        if view is None:
            return self._remove(key)
        old = self._entries.get(key)
        if old is None:
            self._put(key, uid, view)
            return [Change(ChangeType.ADDED, key, None, view)]
        if old.uid != uid:  # deleted and made anew while nobody watched: another object of the same name
            return [*self._remove(key), *self._upsert(raw)]
        if old.view == view:
            return []
        self._unindex(key, old.owner)
        self._put(key, uid, view)
        return [Change(ChangeType.MODIFIED, key, old.view, view)]

    def _put(self, key: ObjectKey, uid: str, view: V) -> None:
        owner = self._owner_of(view)
        self._entries[key] = _Entry(uid, view, owner)
        if owner is not None:
            self._owned.setdefault(owner, {})[key] = None

    def _remove(self, key: ObjectKey) -> list[Change[V]]:
        entry = self._entries.pop(key, None)
        if entry is None:
            return []
        self._unindex(key, entry.owner)
        return [Change(ChangeType.DELETED, key, entry.view, None)]

    def _unindex(self, key: ObjectKey, owner: Hashable | None) -> None:
        if owner is None:
            return
        keys = self._owned[owner]
        del keys[key]
        if not keys:
            del self._owned[owner]


def _key(raw: Raw) -> ObjectKey:
    metadata = raw["metadata"]
    return ObjectKey(intern(metadata.get("namespace", "")), metadata["name"])
