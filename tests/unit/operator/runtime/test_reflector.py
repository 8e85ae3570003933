from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlenv_operator.runtime.reflector import (
    Change,
    ChangeType,
    ListEnded,
    ListPage,
    ListStarted,
    ObjectKey,
    Reflector,
    WatchEvent,
)

Raw = dict[str, Any]
View = tuple[str, str, str]


def raw(name: str, *, uid: str = "", value: str = "1", owner: str = "", version: str = "1") -> Raw:
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid or f"uid-{name}",
            "resourceVersion": version,
            "labels": {"owner": owner},
        },
        "value": value,
        "noise": version,
    }


def project(obj: Raw) -> View | None:
    if obj["value"] == "hidden":
        return None
    return obj["metadata"]["name"], obj["metadata"]["labels"]["owner"], obj["value"]


def reflector() -> Reflector[View]:
    return Reflector(project, lambda view: view[1] or None)


def listed(r: Reflector[View], *objects: Raw, version: str = "10") -> list[Change[View]]:
    changes = r.feed(ListStarted())
    for obj in objects:
        changes += r.feed(ListPage([obj]))
    return changes + r.feed(ListEnded(version))


def kinds(changes: list[Change[View]]) -> list[tuple[str, str]]:
    return [(change.type.value, change.key.name) for change in changes]


def test_a_list_adds_and_a_second_list_tells_the_difference_deletions_included() -> None:
    r = reflector()
    assert not r.synced
    assert kinds(listed(r, raw("a"), raw("b"), raw("c"))) == [("Added", n) for n in "abc"]
    assert r.synced
    changes = listed(r, raw("a"), raw("b", value="2"), raw("d"), version="20")
    assert kinds(changes) == [("Modified", "b"), ("Added", "d"), ("Deleted", "c")]
    assert r.resource_version == "20"
    assert r.get(ObjectKey("ns", "c")) is None


def test_the_same_name_with_another_uid_is_another_object() -> None:
    r = reflector()
    listed(r, raw("a", uid="1"))
    assert kinds(listed(r, raw("a", uid="2"))) == [("Deleted", "a"), ("Added", "a")]


def test_a_change_outside_the_view_is_no_change_but_moves_the_version() -> None:
    r = reflector()
    listed(r, raw("a"))
    assert r.feed(WatchEvent("MODIFIED", raw("a", version="11"))) == []
    assert r.resource_version == "11"


def test_watch_events() -> None:
    r = reflector()
    listed(r)
    assert kinds(r.feed(WatchEvent("ADDED", raw("a")))) == [("Added", "a")]
    (change,) = r.feed(WatchEvent("MODIFIED", raw("a", value="2")))
    assert (change.type, change.old, change.new) == (ChangeType.MODIFIED, ("a", "", "1"), ("a", "", "2"))
    assert kinds(r.feed(WatchEvent("DELETED", raw("a", version="30")))) == [("Deleted", "a")]
    assert r.resource_version == "30"
    assert r.feed(WatchEvent("DELETED", raw("a"))) == []


def test_a_bookmark_only_moves_the_version() -> None:
    r = reflector()
    listed(r, raw("a"))
    assert r.feed(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "99"}})) == []
    assert (r.resource_version, len(r)) == ("99", 1)


def test_what_becomes_none_of_our_business_is_deleted() -> None:
    r = reflector()
    listed(r, raw("a", owner="x"))
    assert kinds(r.feed(WatchEvent("MODIFIED", raw("a", value="hidden")))) == [("Deleted", "a")]
    assert r.by_owner("x") == []


def test_the_index_follows_an_owner_that_changes() -> None:
    r = reflector()
    listed(r, raw("a", owner="x"), raw("b", owner="x"), raw("c"))
    assert [view[0] for view in r.by_owner("x")] == ["a", "b"]
    r.feed(WatchEvent("MODIFIED", raw("a", owner="y")))
    assert [view[0] for view in r.by_owner("x")] == ["b"]
    assert r.owners() == ["x", "y"]


def test_a_list_that_broke_off_deletes_nothing() -> None:
    r = reflector()
    listed(r, raw("a"), raw("b"))
    r.feed(ListStarted())
    r.feed(ListPage([raw("a")]))
    assert len(r) == 2
    assert kinds(listed(r, raw("a"))) == [("Deleted", "b")]


def test_cluster_scoped_objects_have_an_empty_namespace() -> None:
    r: Reflector[str] = Reflector(lambda obj: obj["metadata"]["name"])
    r.feed(WatchEvent("ADDED", {"metadata": {"name": "node-1", "uid": "u"}}))
    assert r.get(ObjectKey("", "node-1")) == "node-1"


objects = st.builds(
    raw,
    st.sampled_from("abc"),
    uid=st.sampled_from(["1", "2"]),
    value=st.sampled_from(["1", "2", "hidden"]),
    owner=st.sampled_from(["", "x", "y"]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("list"), st.lists(objects, unique_by=lambda obj: obj["metadata"]["name"])),
        st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), objects),
    ),
    max_size=20,
)


@given(steps)
def test_changes_add_up_to_the_contents_and_so_do_the_indices(script: list[tuple[str, Any]]) -> None:
    r, truth, told = reflector(), dict[str, Raw](), dict[str, View]()
    for kind, thing in script:
        if kind == "list":
            truth = {obj["metadata"]["name"]: obj for obj in thing}
            changes = listed(r, *thing)
        else:
            truth.pop(thing["metadata"]["name"], None)
            if kind != "DELETED":
                truth[thing["metadata"]["name"]] = thing
            changes = r.feed(WatchEvent(kind, thing))
        for change in changes:
            assert told.get(change.key.name) == change.old
            told.pop(change.key.name, None)
            if change.new is not None:
                told[change.key.name] = change.new
    expected = {name: view for name, obj in truth.items() if (view := project(obj)) is not None}
    assert told == expected
    assert {view[0]: view for view in r.views()} == expected
    for owner in ("x", "y"):
        assert sorted(r.by_owner(owner)) == sorted(v for v in expected.values() if v[1] == owner)
