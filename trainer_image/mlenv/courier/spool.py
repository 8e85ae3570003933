"""The folder of checkpoints as the courier sees it. It reads, and links: nothing that ranks wrote is changed.

What is being carried is held by hard links, which cost no room, so that retention among the ranks may delete
a checkpoint at any time without cutting off an upload that takes longer than the interval.
"""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import listing, names, seal, verify
from mlenv.ckpt.errors import ListingFailed
from mlenv.courier import plan
from mlenv.courier.errors import StoreFailed
from mlenv.courier.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlenv.ckpt.listing import Found
    from mlenv.courier.config import Config

WORK: Final = "work-"


class Spool:
    """One courier's view of it."""

    def __init__(self, config: Config, me: str) -> None:
        self._folder = config.checkpoints
        self._uid = config.uid
        self._node = config.node
        self._known: dict[str, Found] = {}
        self._listed: frozenset[str] | None = None
        """Names that were there at the last look; None: look at everything again."""
        self.work: Final = config.own / f"{WORK}{me}"

    def begin(self) -> None:
        """Make our own folder, and clear what couriers before this one left in it."""
        self.work.parent.mkdir(parents=True, exist_ok=True)
        for left in self.work.parent.glob(f"{WORK}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.work.mkdir(exist_ok=True)

    def end(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.work, ignore_errors=True)

    def look(self) -> list[plan.Sealed]:
        """What is sealed there, of this job. Seals are parsed once; a folder that is not there has none."""
        try:
            present = frozenset(one for one in os.listdir(self._folder) if names.parse_folder(one))  # noqa: PTH208
            if present != self._listed:
                self._known = {one.name: one for one in listing.read(self._folder)}
                self._listed = present
        except FileNotFoundError:
            return []
        except (OSError, ListingFailed) as error:
            raise StoreFailed(Fault(Kind.LOCAL, f"{self._folder} cannot be listed: {error}")) from None
        return [sealed(one.seal, one.digest) for one in self._ours() if one.seal]

    def _ours(self) -> Iterable[Found]:
        return (
            one
            for one in self._known.values()
            if one.finished and one.seal is not None and one.seal.job in ("", self._uid)
        )

    def whole(self, name: str) -> seal.Seal:
        """The seal of a checkpoint that `look` found."""
        found = self._known[name].seal
        assert found is not None
        return found

    def files(self, name: str) -> tuple[seal.Part, ...]:
        """What this node carries of it, besides the seal."""
        return plan.own(self.whole(name), self._node)

    def hold(self, name: str) -> Path:
        """Keep its files until `release`, whatever becomes of its folder, and see that they are whole.

        Raises StoreFailed when it is gone or damaged: what is not what was sealed is carried nowhere.
        """
        held, folder = self.work / name, self._folder / name
        shutil.rmtree(held, ignore_errors=True)
        parts = self.files(name)
        try:
            for uri in (names.SEAL, *(one.uri for one in parts)):
                (held / uri).parent.mkdir(parents=True, exist_ok=True)
                (held / uri).hardlink_to(folder / uri)
        except FileNotFoundError:
            self.release(name)
            raise StoreFailed(Fault(Kind.LOCAL, f"{name} went before it was carried")) from None
        except OSError:
            self.release(name)  # no links on this volume: carried from where it lies
            held = folder
        wrong = [why for why in verify.verify(held, parts).values() if why]
        if wrong:
            self.release(name)
            raise StoreFailed(Fault(Kind.LOCAL, f"{name} is not carried: {wrong[0]}"))
        return held

    def release(self, name: str) -> None:
        """What was held is not needed any more."""
        shutil.rmtree(self.work / name, ignore_errors=True)

    def forget(self) -> None:
        """Look at everything again, also where nothing is left."""
        self._listed = None


def sealed(whole: seal.Seal, digest: str) -> plan.Sealed:
    """A seal as the plan sees it."""
    carriers = {one.node for one in plan.needed(whole) if one.node}
    return plan.Sealed(
        name=whole.folder,
        which=plan.Identity(whole.step, whole.attempt, digest),
        size=sum(one.size for one in plan.needed(whole)),
        time=datetime.fromisoformat(whole.time),
        good=whole.good,
        nodes=frozenset(carriers),
        metrics=whole.metrics,
    )
