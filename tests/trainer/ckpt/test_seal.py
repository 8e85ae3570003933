"""A seal that is read is input from outside: what is refused, and in which words."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv.ckpt import names, seal
from mlenv.ckpt.errors import SealInvalid

PART = seal.Part(uri="replica-0/__0_0.distcp", size=3, hash="a" * 64, algorithm="sha256", kind="replica")
TENSOR = seal.Tensor(name="net.w", shape=(2, 3), dtype="float32", checksum="0" * 16, model=True)
SEAL = seal.Seal(
    job="uid",
    attempt=2,
    step=7,
    time="2026-01-02T03:04:05+00:00",
    world=seal.World(size=2, nodes=1),
    tensors=(TENSOR,),
    parts=(PART,),
    cursors={"data": {"epoch": 1, "at": [1, 2]}},
    metrics={"loss": 0.1, "auc": "NaN"},
    witness=seal.Witness(count=3, sum="0" * 15 + "f"),
    skipped=(seal.Window(source="clicks", first=3, end=9, why="poisoned"),),
    base=seal.Base(full="b" * 64, deltas=("c" * 64,)),
)


def sealed(body: dict[str, Any]) -> bytes:
    """What somebody else's program would write: any body, with the right digest."""
    text = seal.canonical(body)
    return b'{"seal":' + text + b',"sha256":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'


def body(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(seal.encode(SEAL))["seal"]
    return found | changes


def part(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = body()["parts"][0]
    return found | changes


def test_what_is_written_can_be_read() -> None:
    assert seal.parse(seal.encode(SEAL)) == SEAL
    assert json.loads(seal.encode(SEAL))["sha256"] == seal.digest(SEAL)


def test_every_fact_counts_in_the_identity() -> None:
    changes: list[dict[str, Any]] = [
        {"step": 8},
        {"parent": "d" * 64},
        {"samples": 1},
        {"parts": (PART.model_copy(update={"hash": "b" * 64}),)},
    ]
    digests = {seal.digest(SEAL.model_copy(update=change)) for change in changes}
    assert len(digests | {seal.digest(SEAL)}) == len(changes) + 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no JSON"),
        (b"{}", "this is no seal"),
        (b'{"seal":[],"sha256":""}', "this is no seal"),
        (b"[" * 100_000, "is no JSON"),
        (seal.encode(SEAL)[:-9], "is no JSON"),
        (seal.encode(SEAL).replace(b'"step":7', b'"step":8'), "edited or damaged"),
        (seal.encode(SEAL).replace(b'"step":7', b'"step": 7'), "canonical form"),
        (seal.encode(SEAL).replace(b'"step":7', b'"step":9,"step":7'), "canonical form"),
        (sealed(body(format=2)), "format 2, and this version reads 1"),
        (sealed(body(format="1")), "format '1'"),
        (sealed(body(step=-1)), "step"),
        (sealed(body(step="7")), "step"),
        (sealed(body(step=2**64)), "step"),
        (sealed(body(colour="red")), "colour"),
        (sealed(body(world={"size": 0, "nodes": 1})), "world.size"),
        (sealed(body(parent="../x")), "parent"),
        (sealed(body(parts=[part(), part()])), "is listed more than once"),
        (sealed(body(tensors=body()["tensors"] * 2)), "'net.w' is listed more than once"),
        (sealed(body(parts=[part(algorithm="md5")])), "algorithm"),
        (sealed(body(parts=[part(size=-3)])), "size"),
        (sealed(body(parts=[part(uri="../../etc/passwd")])), "leads out of the checkpoint's folder"),
        (sealed(body(parts=[part(uri="/etc/passwd")])), "leads out"),
        (sealed(body(parts=[part(uri="a//b")])), "leads out"),
        (sealed(body(parts=[part(uri="a/./b")])), "leads out"),
        (sealed(body(parts=[part(uri="a\\b")])), "characters that no checkpoint uses"),
        (sealed(body(parts=[part(uri="a\0b")])), "characters that no checkpoint uses"),
        (sealed(body(parts=[part(uri="a/" * 9 + "b")])), "too deep"),
    ],
)
def test_nonsense_gets_a_sentence(data: bytes, why: str) -> None:
    with pytest.raises(SealInvalid) as caught:
        seal.parse(data)
    assert why in str(caught.value)


def test_a_seal_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "MAX_BYTES", 10)
    with pytest.raises(SealInvalid, match="more than 10"):
        seal.parse(seal.encode(SEAL))


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(SealInvalid):
        seal.parse(data)


@settings(max_examples=300)
@given(st.data())
def test_one_changed_byte_is_seen(data: st.DataObject) -> None:
    whole = bytearray(seal.encode(SEAL))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealInvalid):
        seal.parse(bytes(whole))


def test_names_of_folders() -> None:
    assert names.parse_folder(names.folder(12, 3)) == (12, 3)
    assert names.parse_folder("step-12.a3") is None
    for name in (names.folder(12, 3) + names.TMP, names.folder(12, 3) + names.GONE + names.TMP):
        assert names.is_litter(name, 3)
        assert not names.is_litter(name, 2), "a newer attempt is writing it"
    assert not names.is_litter("notes.tmp", 3)
    assert not names.is_litter(names.folder(12, 3), 3)
