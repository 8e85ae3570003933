"""Launchers live in images a year old: messages of every version, as they were sent, stay readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_api.protocol import OLDEST_PROTOCOL, PROTOCOL, Answer, Beat, LastWords, Misdirected

if TYPE_CHECKING:
    from mlenv_api.base import Model

FOLDER = Path(__file__).parent / "messages"
MODELS: dict[str, type[Model]] = {
    "beat": Beat,
    "answer": Answer,
    "misdirected": Misdirected,
    "words": LastWords,
}
RECORDED = sorted(FOLDER.glob("v*/*.json"))


def model_of(path: Path) -> type[Model]:
    return MODELS[path.stem.split("-")[0]]


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", RECORDED, ids=named)
def test_nothing_said_is_lost(path: Path) -> None:
    said = json.loads(path.read_text())
    read = json.loads(model_of(path).model_validate_json(path.read_text()).model_dump_json(by_alias=True))
    assert lost(said, read, path.stem) == []


def lost(said: Any, read: Any, where: str) -> list[str]:
    """What of a message is not there once it was read; fields that came later are no loss."""
    if isinstance(said, dict) and isinstance(read, dict):
        gone = [f"{where}.{key}" for key in said if key not in read]
        both = [(said[key], read[key], f"{where}.{key}") for key in said if key in read]
    elif isinstance(said, list) and isinstance(read, list) and len(said) == len(read):
        gone, both = [], [(*pair, f"{where}[]") for pair in zip(said, read, strict=True)]
    else:
        # What is not finite goes as a word, and is null in this way of writing.
        same = said == read or (said in ("NaN", "Infinity", "-Infinity") and read is None)
        return [] if same else [f"{where}: {said!r} is {read!r}"]
    return gone + [one for pair in both for one in lost(*pair)]


@pytest.mark.parametrize("path", RECORDED, ids=named)
def test_fields_of_a_newer_version_are_ignored(path: Path) -> None:
    def widen(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: widen(value) for key, value in node.items() if key != "metrics"} | {
                "newField": {"a": 1}
            }
        return [widen(item) for item in node] if isinstance(node, list) else node

    assert model_of(path).model_validate(widen(json.loads(path.read_text())))


def test_a_loss_that_is_not_a_number_arrives() -> None:
    beat = Beat.model_validate_json((FOLDER / "v1" / "beat-running.json").read_text())
    assert beat.progress is not None
    assert beat.progress.metrics["loss"] != beat.progress.metrics["loss"]


def test_every_version_that_is_spoken_is_recorded() -> None:
    recorded = {path.parent.name for path in RECORDED}
    assert recorded == {f"v{version}" for version in range(OLDEST_PROTOCOL, PROTOCOL + 1)}
    for version in recorded:
        kinds = {path.stem.split("-")[0] for path in RECORDED if path.parent.name == version}
        assert kinds == set(MODELS)
