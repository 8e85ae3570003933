"""Brings a checkpoint from the store into the folder of checkpoints: a candidate like others then."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import durable, listing, names, seal, verify
from mlenv.ckpt.errors import ListingFailed, SealInvalid
from mlenv.courier import failpoints, faults, plan
from mlenv.courier.errors import StoreFailed, Unfit
from mlenv.courier.faults import Fault, Kind
from mlenv.courier.pages import Brought, Wanted
from mlenv.courier.remote import patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mlenv.courier.remote import Store

DAMAGED: Final = "damaged-"


def candidates(heads: Iterable[plan.Version], wanted: Wanted) -> list[plan.Version]:
    """Which to try, the newest first. Pure.

    By the metadata beside each: it only orders them, and the seal that is brought has to say the same.
    """
    found = [
        one
        for one in heads
        if one.which.attempt >= wanted.since
        and (wanted.ceiling is None or one.which.step <= wanted.ceiling)
        and one.which.step > wanted.above
        and one.which.digest not in wanted.tried
        and (one.good or not wanted.finite)
    ]
    return sorted(found, key=lambda one: one.which.order, reverse=True)


class Fetcher:
    """Brings what rank 0 wants. `say` gets a line about each passed over; `tell` is told how it goes."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        work: Path,
        say: Callable[[str], None],
        tell: Callable[[Brought], None],
    ) -> None:
        self._store = store
        self._folder = folder
        self._work = work
        self._say = say
        self._tell = tell
        self._nonce = ""

    def bring(self, wanted: Wanted) -> Brought:
        """The newest that is whole. Raises StoreFailed where the store cannot be asked."""
        passed, self._nonce = [], wanted.nonce
        for version in candidates(self._store.heads(), wanted):
            try:
                name = self._here(version) or self._one(version)
            except Unfit as error:
                passed.append(f"{version.name}: {error}")
                self._say(f"{version.name} is passed over: {error}")
            else:
                words = f"{name} was brought from {version.name}"
                return Brought(
                    nonce=wanted.nonce, name=name, digest=version.which.digest, done=True, words=words
                )
        words = "; ".join(passed) or f"{self._store.head} has none that may be used"
        return Brought(nonce=wanted.nonce, done=True, words=words[:2000])

    def bring_source(self, wanted: Wanted) -> Brought:
        """The one that is named, or why it cannot be used. Raises StoreFailed where asking again may help."""
        self._nonce = wanted.nonce
        try:
            version = self._store.find(wanted.source, finite=wanted.finite)
            name = self._here(version) or self._one(version)
        except Unfit as error:
            return Brought(nonce=wanted.nonce, done=True, words=f"{wanted.source}: {error}"[:2000])
        except StoreFailed as error:
            if error.fault.kind not in faults.FINAL:
                raise
            words = f"{wanted.source}: {error.fault.sentence}"
            return Brought(nonce=wanted.nonce, done=True, words=words[:2000])
        words = f"{name} was brought from {version.name}"
        return Brought(nonce=wanted.nonce, name=name, digest=version.which.digest, done=True, words=words)

    def _here(self, version: plan.Version) -> str:
        """Its name, where it lies in the folder as it was sealed; else nothing."""
        name = names.folder(version.which.step, version.which.attempt)
        found = next((one for one in self._listed() if one.name == name), None)
        if found is None or found.seal is None or found.digest != version.which.digest:
            return ""
        wrong = verify.verify(self._folder / name, plan.needed(found.seal)).values()
        return "" if any(wrong) else name

    def _listed(self) -> list[listing.Found]:
        try:
            return listing.read(self._folder)
        except ListingFailed:
            return []

    def _one(self, version: plan.Version) -> str:
        staging = self._work / "arriving"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            whole = self._seal(version, staging)
            self._files(version, whole, staging)
            wrong = [why for why in verify.verify(staging, plan.needed(whole)).values() if why]
            if wrong:
                raise Unfit(wrong[0])
            if not self._here(version):  # another pod's courier may serve the same volume for a while
                self._place(staging, whole.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return whole.folder

    def _seal(self, version: plan.Version, staging: Path) -> seal.Seal:
        self._read(version.name, version.node, names.SEAL, staging, seal.MAX_BYTES)
        path = staging / names.SEAL
        if path.stat().st_size > seal.MAX_BYTES:
            raise Unfit("its seal is too big")
        try:
            whole = seal.parse(path.read_bytes())
        except SealInvalid as error:
            raise Unfit(str(error)) from None
        if plan.Identity(whole.step, whole.attempt, seal.digest(whole)) != version.which:
            raise Unfit("its seal is that of another checkpoint than its metadata says")
        return whole

    def _files(self, version: plan.Version, whole: seal.Seal, staging: Path) -> None:
        homes = {0: version.name, **self._parts(version)}
        parts = plan.needed(whole)
        for number, part in enumerate(parts):
            words = f"bringing {whole.folder}, file {number + 1} of {len(parts)} ({part.size} bytes)"
            self._tell(Brought(nonce=self._nonce, words=words, patience=int(patience(part.size))))
            node = part.node or 0
            if node not in homes:
                raise Unfit(f"nobody knows which version holds the part of node {node}")
            self._read(homes[node], node, part.uri, staging, part.size)

    def _parts(self, version: plan.Version) -> dict[int, str]:
        """Where the parts of a head are: one that somebody deleted has another version once it is back."""
        named = dict(version.parts)
        listed = self._store.parts() if named else []
        there = {one.name for one in listed}
        back = {one.node: one.name for one in listed if one.which == version.which and one.verified}
        return {node: name if name in there else back.get(node, name) for node, name in named.items()}

    def _read(self, name: str, node: int, uri: str, into: Path, size: int) -> None:
        """A file that is not there, or not to be had, is a fault of this version, and no other's."""
        try:
            self._store.read(name, node, uri, into, size)
        except StoreFailed as error:
            if error.fault.kind in (Kind.MISSING, Kind.OTHER):
                raise Unfit(f"{uri} cannot be read: {error.fault.text}") from None
            raise

    def _place(self, staging: Path, name: str) -> None:
        """Under its name; what lay there was found unusable, and is put aside until another one is."""
        final = self._folder / name
        try:
            self._folder.mkdir(exist_ok=True)
            durable.sync_tree(staging)
            if final.exists():
                for left in self._work.parent.glob(f"{DAMAGED}*"):
                    shutil.rmtree(left, ignore_errors=True)
                final.rename(self._work.parent / f"{DAMAGED}{name}")
            failpoints.hit("brought")
            durable.rename(staging, final)
        except OSError as error:
            raise StoreFailed(
                Fault(Kind.LOCAL, f"{name} cannot be put into {self._folder}: {error}")
            ) from None
