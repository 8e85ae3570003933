"""A start from a checkpoint of another run: its things, and neither its steps nor its place in the data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from mlenv.ckpt import listing, names, things
from mlenv.ckpt.candidates import Candidate
from mlenv.ckpt.errors import ListingFailed, NothingToResume, TogetherFailed
from mlenv.ckpt.restore import Restore, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mlenv.ckpt.group import Groups
    from mlenv.ckpt.seal import Seal


DATA: Final = frozenset({"data"})
"""Its place is another run's, and is taken only when it is named."""


def start(
    groups: Groups,
    living: Mapping[str, Any],
    folder: Path,
    wanted: tuple[str, ...],
    tell: Callable[[str], None],
) -> Start:
    """Put things of the checkpoint in `folder` into `living`: those called `wanted`, or all but data.

    It is verified like any other: seal, hashes, signature, checksums. Training is at step 0. Raises
    NothingToResume when it is not there, damaged or of something else: never starts without it.
    """
    place = replace(groups.place, folder=folder.parent, per_node=False)
    try:
        taken = groups.control.together("choosing things", lambda: _taken(living, wanted))[0]
        found = groups.control.together("reading its seal", lambda: _find(folder))[0]
        whole = narrow(found.seal, taken)
        candidate = Candidate(found.digest, whole, frozenset({0}), frozenset())
        mine = {name: living[name] for name in taken}
        search = Restore(replace(groups, place=place), mine, "", tell, ignored=None if wanted else DATA)
        search.take(candidate)
    except TogetherFailed as error:
        raise NothingToResume(
            f"this job starts from {folder} (spec.checkpoint.resume.from), which cannot be used: {error}"
        ) from None
    return Start(digest=found.digest, seal=found.seal)


def narrow(whole: Seal, taken: tuple[str, ...]) -> Seal:
    """What the seal says of the things `taken`. Pure."""
    tensors = tuple(one for one in whole.tensors if one.name.split(".", 1)[0] in taken)
    return whole.model_copy(update={"tensors": tensors})


def _taken(living: Mapping[str, Any], wanted: tuple[str, ...]) -> tuple[str, ...]:
    strangers = sorted(set(wanted) - living.keys())
    if strangers:
        raise NothingToResume(
            f"spec.checkpoint.resume.things names {', '.join(strangers)}, and the Session has "
            f"{', '.join(living)}"
        )
    taken = wanted or tuple(name for name in living if name != "data")
    models = [living[name] for name in taken if isinstance(living[name], torch.nn.Module)]
    known = {id(one) for model in models for one in model.parameters()}
    for name in taken:
        thing = living[name]
        own = things.parameters(thing) if isinstance(thing, torch.optim.Optimizer) else []
        if any(id(one) not in known for one in own):
            raise NothingToResume(f"{name} cannot be taken without the model that it trains: name that too")
    return taken


def _find(folder: Path) -> Any:
    if names.parse_folder(folder.name) is None:
        raise NothingToResume(
            f"{folder.name} is no name of a checkpoint, such as step-000000001200.a3: name that folder"
        )
    if not folder.is_dir():
        raise NothingToResume("there is no such folder: is its volume mounted in all pods?")
    try:
        found = next((one for one in listing.read(folder.parent) if one.name == folder.name), None)
    except ListingFailed as error:
        raise NothingToResume(str(error)) from None
    if found is None or found.seal is None:
        raise NothingToResume(found.refusal if found else "it is no plain folder")
    return found
