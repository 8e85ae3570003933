"""Which checkpoint a gang can put together, from what its folders hold."""

from __future__ import annotations

from typing import Any

import pytest
from test_seal import SEAL

from mlenv.ckpt import names, seal, settle, verify
from mlenv.ckpt.candidates import assemble, choose
from mlenv.ckpt.errors import SaveFailed
from mlenv.ckpt.listing import Found
from mlenv.ckpt.place import assign


def whole(step: int, attempt: int = 1, uris: tuple[str, ...] = (), **more: Any) -> seal.Seal:
    parts = tuple(
        seal.Part(uri=uri, size=1, hash="a" * 64, algorithm="sha256", kind=kind_of(uri)) for uri in uris
    )
    return SEAL.model_copy(update={"step": step, "attempt": attempt, "parts": parts, **more})


def kind_of(uri: str) -> Any:
    return "replica" if uri.startswith("replica") else "state" if uri.startswith("shards") else "data"


def found(one: seal.Seal, *, finished: bool = True) -> Found:
    return Found(one.folder, one.step, one.attempt, one, seal.digest(one), "", finished)


def steps(listings: list[list[Found]], **more: Any) -> list[tuple[int, int]]:
    choice = choose(listings, job="uid", **more)
    return [(one.seal.step, one.seal.attempt) for one in choice.candidates]


def test_the_newest_step_first_and_of_one_step_the_newest_attempt() -> None:
    listed = [found(whole(3, 1)), found(whole(5, 1)), found(whole(5, 2)), found(whole(4, 9))]
    assert steps([listed]) == [(5, 2), (5, 1), (4, 9), (3, 1)]


def test_a_ceiling_bounds_all() -> None:
    assert steps([[found(whole(3)), found(whole(5))]], ceiling=4) == [(3, 1)]


def test_one_that_was_made_although_it_is_not_finite_is_for_who_allows_it() -> None:
    bad = whole(5).model_copy(update={"nonfinite": "net.weight has 3 NaN"})
    listed = [[found(whole(3)), found(bad)]]
    assert steps(listed) == [(5, 1), (3, 1)]
    assert steps(listed, finite=True) == [(3, 1)]
    (refusal,) = choose(listed, job="uid", finite=True).refusals
    assert "net.weight has 3 NaN" in refusal.why


def test_a_past_is_doubted_where_armed_checks_speak_against_all_of_it_and_nothing_else_does() -> None:
    insane = [found(whole(step, insane=("probe: it raised ValueError",))) for step in (5, 7)]
    cut = Found(names.folder(9, 1), 9, 1, None, "", "it was cut off", finished=True)
    for listed, more, doubted in (
        (insane, {}, True),
        ([*insane, found(whole(3))], {}, False),
        ([*insane, cut], {}, False),
        (insane, {"ceiling": 6}, False),
        (insane, {"finite": False}, False),
        ([], {}, False),
    ):
        assert choose([listed], job="uid", **{"finite": True, **more}).doubted is doubted


def test_a_ceiling_of_0_is_a_new_start() -> None:
    assert choose([[found(whole(3))]], job="uid", ceiling=0).empty


def test_what_was_saved_before_a_new_start_is_as_if_it_were_not_there() -> None:
    bad = Found(names.folder(9, 1), 9, 1, None, "", "it was cut off", finished=True)
    listed = [bad, found(whole(5, 1)), found(whole(3, 2))]
    assert steps([listed], since=2) == [(3, 2)]
    assert choose([listed], job="uid", since=3).empty


def test_sealed_anywhere_is_sealed_and_sealed_nowhere_is_not() -> None:
    one, two = whole(3), whole(4)
    choice = choose([[found(one)], [found(one, finished=False), found(two, finished=False)]], job="uid")
    assert [(c.seal.step, c.holders, c.unfinished) for c in choice.candidates] == [(3, {0}, {1})]
    assert choose([[found(two, finished=False)]], job="uid").empty


def test_an_unreadable_seal_is_a_past() -> None:
    bad = Found(names.folder(3, 1), 3, 1, None, "", "it was cut off", finished=True)
    choice = choose([[bad]], job="uid")
    assert not choice.empty
    assert choice.refusals[0].why == "it was cut off"


COPIES = ("replica-0/.metadata", "replica-0/__0_0.distcp", "replica-1/.metadata", "replica-1/__0_0.distcp")
SHARDS = ("shards/.metadata", "shards/__0_0.distcp", "shards/__1_0.distcp")
FIRST = frozenset({"state.json", *COPIES[:2], "shards/.metadata", "shards/__0_0.distcp"})
SECOND = frozenset({"state.json", *COPIES[2:], "shards/.metadata", "shards/__1_0.distcp"})
BOTH = whole(3, uris=("state.json", *COPIES, *SHARDS))


def test_nothing_moves_when_everybody_has_its_own() -> None:
    done = assemble(BOTH, [FIRST, SECOND], [(0,), (1,)])
    assert (done.moves, done.missing, done.copies) == ((), (), (0, 1))


def test_an_empty_folder_gets_a_copy_and_lost_shards_are_missing() -> None:
    done = assemble(BOTH, [FIRST, frozenset()], [(0,), (1,)])
    assert {move.uri for move in done.moves} >= {"state.json", *COPIES[:2]}
    assert done.missing == ("shards/__1_0.distcp",)
    alike = whole(3, uris=("state.json", *COPIES))
    done = assemble(alike, [frozenset(), SECOND], [(0,), (1,)])
    assert (done.missing, done.copies) == ((), (1, 1))
    assert {(move.uri, move.source, move.targets) for move in done.moves} == {
        (uri, 1, (0,)) for uri in ("state.json", *COPIES[2:])
    }


def test_a_copy_can_be_put_together_of_two_damaged_ones() -> None:
    one, two = (
        frozenset({"state.json", COPIES[0], COPIES[3]}),
        frozenset({"state.json", COPIES[1], COPIES[2]}),
    )
    done = assemble(whole(3, uris=("state.json", *COPIES)), [one, two], [(0,), (1,)])
    assert done.missing == ()


def test_another_world_needs_every_shard_everywhere() -> None:
    done = assemble(BOTH, [FIRST, SECOND], [(0, 1), (2, 3)])
    assert {(move.uri, move.targets) for move in done.moves} == {
        ("shards/__0_0.distcp", (1,)),
        ("shards/__1_0.distcp", (0,)),
    }


def test_a_model_differs_in_words() -> None:
    listed = [
        seal.Tensor(name=name, shape=shape, dtype="float32", checksum="0" * 16, model=True)
        for name, shape in (("emb.weight", (100, 8)), ("a", (1,)), ("gone", (2,)))
    ]
    now = {"emb.weight": ((120, 8), "float32"), "a": ((1,), "bfloat16"), "new": ((1,), "float32")}
    assert verify.diff(listed, now) == [
        "emb.weight: shape (100, 8) in the checkpoint, (120, 8) in the model",
        "a: float32 in the checkpoint, bfloat16 in the model",
        "new: in the model, not in the checkpoint",
        "gone: in the checkpoint, not in the model",
    ]


def test_writers_share_evenly() -> None:
    sizes = {"a": 8, "b": 5, "c": 4, "d": 3}
    given = assign(sizes, 2)
    assert given == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert assign(dict(reversed(sizes.items())), 2) == given


def test_copies_that_differ_are_not_sealed() -> None:
    shares = [settle.Share("w", (1,), "float32", copy, total, model=True) for copy, total in ((0, 5), (1, 6))]
    with pytest.raises(SaveFailed, match="w differs between nodes 0 and 1"):
        settle.tensors(shares)


def test_what_differs_is_kept_for_each_rank() -> None:
    same, other = settle.Fingerprint("float32", (1,), 5), settle.Fingerprint("float32", (1,), 6)
    agreed = settle.settle(
        [
            settle.Digests({"a": same, "b": same}, {"x": "1", "y": "1"}),
            settle.Digests({"a": same, "b": other, "c": same}, {"x": "1", "y": "2"}),
        ]
    )
    assert agreed == settle.Agreed(frozenset({"a"}), frozenset({"b", "c"}), frozenset({"x"}))
