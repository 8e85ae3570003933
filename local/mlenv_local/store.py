"""Remembering which clusters exist: one small file each, written before anything else of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local.layout import FIRST_SLOT, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

_FILE = "cluster.json"


def to_json(layout: Layout) -> str:
    """What must be remembered; name and state folder are where the file lies."""
    return json.dumps(
        {
            "slot": layout.slot,
            "nodes": layout.node_count,
            "egress": layout.egress,
            "fakeGpus": layout.fake_gpus,
            "fakeNodes": layout.fake_nodes,
            "cniBin": str(layout.cni_bin),
        }
    )


def from_json(name: str, state: Path, text: str) -> Layout:
    """The inverse of `to_json`."""
    raw = json.loads(text)
    return Layout(
        name=name,
        slot=raw["slot"],
        node_count=raw["nodes"],
        state=state,
        cni_bin=Path(raw["cniBin"]),
        egress=raw["egress"],
        fake_gpus=raw["fakeGpus"],
        fake_nodes=raw.get("fakeNodes", 0),
    )


def load(name: str, state: Path) -> Layout | None:
    """Return the cluster's layout, or None if there is no such cluster."""
    path = state / name / _FILE
    return from_json(name, state, path.read_text()) if path.exists() else None


def names(state: Path) -> list[str]:
    """The clusters that exist, up or not."""
    return sorted(path.parent.name for path in state.glob(f"*/{_FILE}"))


def taken_slots(state: Path) -> set[int]:
    """Slots of all existing clusters."""
    return {layout.slot for name in names(state) if (layout := load(name, state))}


def create(state: Path, name: str, build: Callable[[set[int]], Layout]) -> Layout:
    """Store the layout that `build` makes of the taken slots; the caller holds the slot lock."""
    layout = build(taken_slots(state))
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o755)
    draft = layout.root / f"{_FILE}.draft"
    draft.write_text(to_json(layout))
    draft.replace(state / name / _FILE)
    return layout


def by_name_only(name: str, state: Path) -> Layout:
    """Return a layout good for taking a cluster down, whose names need neither slot nor number of nodes."""
    return load(name, state) or Layout(name=name, slot=FIRST_SLOT, node_count=1, state=state)
