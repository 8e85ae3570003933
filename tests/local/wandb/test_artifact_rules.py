"""The rules about artifacts that need no server: manifests, names, times to live."""

from __future__ import annotations

import json

import pytest
import wandb
from hypothesis import given
from hypothesis import strategies as st
from wandb.sdk.artifacts.artifact_manifest import ArtifactManifest

from mlenv_local.wandb_server.artifacts import manifest, naming
from mlenv_local.wandb_server.errors import Refused

DIGEST = "rL0Y20zC+Fzt72VPzMSk2A=="
PATHS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
FILES = st.dictionaries(PATHS, st.fixed_dictionaries({"digest": st.just(DIGEST), "size": st.integers(0, 9)}))


def written(contents: dict[str, dict[str, object]]) -> bytes:
    return manifest.Manifest(contents).encode()


@given(FILES)
def test_a_digest_is_the_one_that_the_client_computes(contents: dict[str, dict[str, object]]) -> None:
    ours = manifest.parse(written(contents))
    theirs = ArtifactManifest.from_manifest_json(json.loads(written(contents)))
    assert ours.digest() == theirs.digest()
    assert {entry.path: entry.size for entry in ours.entries()} == {
        path: entry.size or 0 for path, entry in theirs.entries.items()
    }


def test_the_empty_digest_is_the_clients() -> None:
    assert manifest.EMPTY.digest() == wandb.Artifact("a", "t").digest


def test_a_merge_adds_and_replaces_and_keeps_what_it_does_not_know() -> None:
    base = manifest.parse(
        written({"a": {"digest": DIGEST, "size": 1, "extra": {"x": 1}}, "b": {"digest": "old"}})
    )
    patch = manifest.parse(written({"b": {"digest": "new"}, "c": {"digest": DIGEST, "ref": "s3://x/c"}}))
    whole = base.merged([patch])
    assert {entry.path: entry.digest for entry in whole.entries()} == {"a": DIGEST, "b": "new", "c": DIGEST}
    assert [entry.path for entry in whole.entries() if not entry.is_file] == ["c"]
    assert json.loads(whole.encode())["contents"]["a"]["extra"] == {"x": 1}


def test_what_only_the_loggers_machine_has_is_not_kept() -> None:
    raw = written({"a": {"digest": DIGEST, "size": 1, "local_path": "/tmp/a", "skip_cache": True}})
    assert json.loads(raw)["contents"]["a"] == {"digest": DIGEST, "size": 1}


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"version": 2, "contents": {}}', b'{"version": 1, "contents": {"a": {"size": 1}}}']
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        manifest.parse(raw)


def test_a_digest_that_is_no_md5_is_refused() -> None:
    assert manifest.hex_of(DIGEST) == "acbd18db4cc2f85cedef654fccc4a4d8"
    for text in ("", "zz", "AAAA", f"{DIGEST}A"):
        with pytest.raises(Refused):
            manifest.hex_of(text)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ("a", "latest")),
        ("a:v3", ("a", "v3")),
        ("a:", ("a", "latest")),
        ("a:best one", ("a", "best one")),
    ],
)
def test_a_name_is_a_collection_and_an_alias(name: str, parts: tuple[str, str]) -> None:
    assert naming.split(name) == parts


def test_versions_are_told_from_aliases() -> None:
    found = [naming.version_of(name) for name in ("v0", "v12", "v01", "v", "va", "V1", "version")]
    assert found == [0, 12, None, None, None, None, None]


@pytest.mark.parametrize("name", ["v1", "a/b", "a:b", "", " a", "x" * 129])
def test_what_cannot_be_an_alias_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        naming.alias_names([name])


def test_aliases_and_tags_are_kept_once() -> None:
    assert naming.alias_names(["b", "a", "b"]) == ["b", "a"]
    assert naming.tag_names(["x y", "x y"]) == ["x y"]
    with pytest.raises(Refused):
        naming.tag_names(["a/b"])


@pytest.mark.parametrize(
    ("sent", "stored", "expires"), [(None, None, None), (-1, None, None), (-2, -2, None), (60, 60, 61_000)]
)
def test_a_time_to_live_is_inherited_off_or_counted_from_the_creation(
    sent: int | None, stored: int | None, expires: int | None
) -> None:
    assert naming.stored_ttl(sent) == stored
    assert naming.expiry(1000, stored) == expires


def test_a_time_to_live_of_nothing_is_refused() -> None:
    for seconds in (0, -3):
        with pytest.raises(Refused):
            naming.stored_ttl(seconds)
