"""Uploads that go wrong, step by step: what is incomplete is no version, and what was sent is not lost."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from wandb_artifacts import Raw, md5

if TYPE_CHECKING:
    from wandb_server import Server


@pytest.fixture
def raw(shared: Server, shared_key: str) -> Raw:
    return Raw(shared, shared_key)


FILES = {"a": b"alpha", "sub/b": b"beta"}


def test_a_version_is_committed_once_and_its_digest_found_again(raw: Raw) -> None:
    draft = raw.begin("steps", "ck", FILES)
    assert draft.state == "PENDING"
    made = draft.log()
    expected = {"state": "COMMITTED", "versionIndex": 0, "size": 9, "fileCount": 2}
    assert {key: made[key] for key in expected} == expected
    assert draft.commit() == made, "the answer may have been lost: committing again changes nothing"
    assert [one["uploadUrl"] for one in draft.wanted()] == [None, None]
    again = raw.begin("steps", "ck", FILES)
    assert (again.id, again.state) == (draft.id, "COMMITTED")
    other = raw.begin("steps", "other", {**FILES, "c": b"gamma"})
    wanted = {one["name"]: (one["uploadUrl"] is None, one["artifact"]["id"]) for one in other.wanted()}
    assert wanted == {"a": (True, draft.id), "sub/b": (True, draft.id), "c": (False, other.id)}
    elsewhere = raw.begin("steps-2", "ck", FILES)
    assert all(one["uploadUrl"] for one in elsewhere.wanted()), "another project may belong to somebody else"


def test_what_is_incomplete_cannot_be_committed(raw: Raw) -> None:
    draft = raw.begin("holes", "ck", FILES)
    with pytest.raises(RuntimeError, match="has no manifest"):
        draft.commit()
    first, second = draft.wanted()
    assert draft.send(first) == 200
    given = {"artifactID": draft.id, "name": "wandb_manifest.json", "digest": "", "runName": "r"}
    raw.mutate(
        "createArtifactManifest", "artifactManifest { id }", **given, entityName="ada", projectName="holes"
    )
    with pytest.raises(RuntimeError, match=r"is no base64 MD5|never uploaded"):
        draft.commit()
    assert draft.send_manifest() == 200
    with pytest.raises(RuntimeError, match="'sub/b' was never uploaded"):
        draft.commit()
    assert draft.send(second) == 200
    assert draft.commit()["versionIndex"] == 0, "what was refused took no number"


def test_damaged_contents_are_refused(raw: Raw) -> None:
    draft = raw.begin("damaged", "ck", FILES)
    first, _ = draft.wanted()
    assert raw.http("PUT", first["uploadUrl"], b"alpho")[0] == 400
    assert raw.http("PUT", first["uploadUrl"], b"alpha", Content_MD5=md5(b"other"))[0] == 400
    assert raw.http("GET", first["uploadUrl"])[0] == 403
    assert draft.send_manifest(b"{}") == 400
    wrong = raw.begin("damaged", "wrong", FILES)
    for one in wrong.wanted():
        wrong.send(one)
    wrong.manifest = wrong.manifest.replace(b'"size": 5', b'"size": 6')
    assert wrong.send_manifest() == 200
    with pytest.raises(RuntimeError, match="has 5 bytes here, and 6 in the manifest"):
        wrong.commit()
    wrong.manifest = wrong.manifest.replace(b'"a"', b'"z"')
    assert wrong.send_manifest() == 200
    with pytest.raises(RuntimeError, match="manifest's digest"):
        wrong.commit()


def test_an_upload_that_was_cut_short_goes_on(raw: Raw) -> None:
    draft = raw.begin("cut", "ck", FILES)
    assert draft.send(draft.wanted()[0]) == 200
    again = raw.begin("cut", "ck", FILES)
    assert (again.id, again.state) == (draft.id, "PENDING")
    assert [one["uploadUrl"] is None for one in again.wanted()] == [True, False]
    assert again.log()["versionIndex"] == 0
    assert draft.commit()["versionIndex"] == 0, "the first client learns that its version is there"


def test_who_goes_on_in_another_way_gets_what_it_says(raw: Raw) -> None:
    """A version begun as an addition, and finished by somebody who logs the same files as a whole."""
    base = raw.begin("ways", "ck", {"old": b"old"}).log()
    addition = raw.begin("ways", "ck", FILES)
    for one in addition.wanted():
        addition.send(one)
    given = {"type": "INCREMENTAL", "name": "wandb_manifest.incremental.json", "baseArtifactID": base["id"]}
    assert addition.send_manifest(**given) == 200
    whole = raw.begin("ways", "ck", FILES)
    assert whole.id == addition.id
    assert whole.log()["fileCount"] == 2
    added = raw.begin("ways", "ck", {"new": b"new"})
    added.send(added.wanted()[0])
    added.send_manifest(**given)
    made = added.commit()
    assert (made["fileCount"], made["digest"] != addition.commit()["digest"]) == (2, True)


def test_a_large_file_comes_in_parts_and_goes_on_with_those_that_lack(raw: Raw) -> None:
    parts = [b"x" * 70_000, b"y" * 70_000, b"z" * 10]
    whole = b"".join(parts)
    draft = raw.begin("parts", "ck", {"big": whole})
    (wanted,) = draft.wanted({"big": parts})
    upload, urls = wanted["uploadMultipartUrls"]["uploadID"], wanted["uploadMultipartUrls"]["uploadUrlParts"]
    for part, url in list(zip(parts, urls, strict=True))[:2]:
        status, _, headers = raw.http("PUT", url["uploadUrl"], part, Content_MD5=md5(part))
        assert (status, headers["ETag"]) == (200, f'"{hashlib.md5(part).hexdigest()}"')
    done = [
        {"partNumber": number, "hexMD5": hashlib.md5(part).hexdigest()}
        for number, part in enumerate(parts, 1)
    ]
    complete = {
        "artifactID": draft.id,
        "completeMultipartAction": "Complete",
        "completedParts": done,
        "storagePath": wanted["storagePath"],
        "uploadID": upload,
    }
    with pytest.raises(RuntimeError, match="Part 3 was never received"):
        raw.mutate("completeMultipartUploadArtifact", "digest", **complete)
    (again,) = draft.wanted({"big": parts})
    assert again["uploadMultipartUrls"]["uploadID"] == upload
    last = again["uploadMultipartUrls"]["uploadUrlParts"][2]["uploadUrl"]
    assert raw.http("PUT", last, parts[2])[0] == 200
    quoted = [{**one, "hexMD5": f'"{one["hexMD5"]}"'} for one in done]  # as the client sends them

    def join(_: int) -> Any:
        return raw.mutate(
            "completeMultipartUploadArtifact", "digest", **complete | {"completedParts": quoted}
        )

    with concurrent.futures.ThreadPoolExecutor(
        4
    ) as pool:  # who waited in vain asks again while it is being joined
        assert [one["digest"] for one in pool.map(join, range(8))] == [md5(whole)] * 8
    assert draft.log()["size"] == len(whole)


def test_parts_belong_to_their_file(raw: Raw) -> None:
    parts = [b"one", b"two"]
    draft = raw.begin("strays", "ck", {"big": b"onetwo"})
    (wanted,) = draft.wanted({"big": parts})
    given = {
        "artifactID": draft.id,
        "completedParts": [],
        "uploadID": wanted["uploadMultipartUrls"]["uploadID"],
    }
    with pytest.raises(RuntimeError, match="of another file"):
        raw.mutate(
            "completeMultipartUploadArtifact",
            "digest",
            **given,
            completeMultipartAction="Complete",
            storagePath="artifact/1/else",
        )
    raw.mutate(
        "completeMultipartUploadArtifact",
        "digest",
        **given,
        completeMultipartAction="Abort",
        storagePath=wanted["storagePath"],
    )
    url = wanted["uploadMultipartUrls"]["uploadUrlParts"][0]["uploadUrl"]
    assert raw.http("PUT", url, b"one")[0] == 404, "an upload that was given up takes nothing any more"


def test_clients_that_commit_at_once_get_dense_versions(raw: Raw) -> None:
    def one(number: int) -> tuple[str, int]:
        draft = raw.begin("crowd", "ck", {"a": str(number % 15).encode(), "same": b"same"})
        return draft.id, draft.log()["versionIndex"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(30)))
    assert {version for _, version in made} == set(range(15)), "15 contents, each logged twice"
    assert len(set(made)) == 15, "a version is one artifact, an artifact one version"
    listed = raw(
        'query { project(name: "crowd", entityName: "ada") { artifactCollection(name: "ck")'
        " { artifacts(first: 100) { totalCount edges { version } } } } }"
    )
    found = listed["project"]["artifactCollection"]["artifacts"]
    assert found["totalCount"] == 15
    assert [edge["version"] for edge in found["edges"]] == [f"v{number}" for number in reversed(range(15))]


def test_an_alias_that_many_want_ends_at_one_version(raw: Raw) -> None:
    ids = [raw.begin("race", "ck", {"a": str(number).encode()}).log()["id"] for number in range(6)]
    place = {"entityName": "ada", "projectName": "race", "artifactCollectionName": "ck"}

    def move(artifact: str) -> None:
        raw.mutate("addAliases", "success", artifactID=artifact, aliases=[{**place, "alias": "best"}])

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(move, ids * 3))
    query = "query A($id: ID!) { artifact(id: $id) { aliases { alias } } }"
    named = [{one["alias"] for one in raw(query, id=artifact)["artifact"]["aliases"]} for artifact in ids]
    assert sum("best" in aliases for aliases in named) == 1


def test_files_come_in_pages_and_by_name(raw: Raw) -> None:
    raw.begin("pages", "ck", {f"f{number}": str(number).encode() for number in range(7)}).log()
    query = """query F($after: String, $first: Int, $names: [String!]) {
      project(name: "pages", entityName: "ada") { artifactCollection(name: "ck") {
        artifactMembership(aliasName: "v0") { files(after: $after, first: $first, names: $names) {
          totalCount pageInfo { endCursor hasNextPage }
          edges { node { name directUrl md5 sizeBytes } } } } } } }"""

    def page(**variables: object) -> dict[str, object]:
        found = raw(query, **variables)["project"]["artifactCollection"]["artifactMembership"]["files"]
        return dict(found)

    names, after = [], None
    while True:
        found: dict[str, object] = page(after=after, first=3)
        assert found["totalCount"] == 7
        names += [edge["node"]["name"] for edge in found["edges"]]  # type: ignore[attr-defined]
        after = found["pageInfo"]["endCursor"]  # type: ignore[index]
        if not found["pageInfo"]["hasNextPage"]:  # type: ignore[index]
            break
    assert names == [f"f{number}" for number in range(7)]
    (edge,) = page(names=["f5"])["edges"]  # type: ignore[misc]
    assert raw.http("GET", edge["node"]["directUrl"])[1] == b"5"
    assert (edge["node"]["md5"], edge["node"]["sizeBytes"]) == (md5(b"5"), 1)


def test_a_file_is_found_by_its_place_when_its_url_has_expired(raw: Raw, shared: Server) -> None:
    made = raw.begin("place", "ck", {"a": b"alpha"}).log()
    digest = base64.b64decode(md5(b"alpha")).hex()
    for middle in (f"{made['id']}/{made['id']}", made["id"]):
        url = f"{shared.url}/artifactsV2/default/ada/place/ck/{middle}/{digest}/a"
        status, _, headers = raw.http("GET", url, **raw.basic())
        assert status == 302
        assert raw.http("GET", headers["Location"])[1] == b"alpha"
        assert raw.http("GET", url)[0] == 401
    absent = url.replace(digest, "0" * 32)
    assert raw.http("GET", absent, **raw.basic())[0] == 404


def test_contents_are_kept_while_a_pending_version_counts_on_them(raw: Raw, shared: Server) -> None:
    """A file that another version has is not sent; deleting that version must not take it away."""
    first = raw.begin("counting", "ck", {"a": b"only here, once"}).log()
    second = raw.begin("counting", "other", {"a": b"only here, once"})
    assert [one["uploadUrl"] for one in second.wanted()] == [None]
    raw.mutate("deleteArtifact", "artifact { state }", artifactID=first["id"], deleteAliases=True)
    shared.collect()
    assert second.log()["state"] == "COMMITTED"


def test_a_pending_version_can_be_deleted_and_begun_again(raw: Raw, shared: Server) -> None:
    files = {"a": b"of nobody else", "b": b"never sent"}
    draft = raw.begin("undone", "ck", files)
    draft.send(draft.wanted()[0])
    sha256 = hashlib.sha256(files["a"]).hexdigest()
    content = shared.data / "blobs" / sha256[:2] / sha256
    shared.collect()
    assert content.exists(), "a version that is being logged keeps what has been sent"
    raw.mutate("deleteArtifact", "artifact { state }", artifactID=draft.id)
    shared.collect()
    assert not content.exists()
    with pytest.raises(RuntimeError, match="was deleted before it was committed"):
        draft.commit()
    again = raw.begin("undone", "ck", files)
    assert again.id != draft.id
    assert again.log()["versionIndex"] == 0
