"""Servers and clients killed in the middle of logging: what is left is consistent and can go on."""

from __future__ import annotations

import socket
import sqlite3
import urllib.error
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Any

import pytest
from wandb_artifacts import FILES, Draft, Raw
from wandb_server import lose, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Own
    from wandb_server import Server

CRASHED = 70
GONE = (ConnectionError, RemoteDisconnected, urllib.error.URLError)


def check(server: Server) -> sqlite3.Connection:
    """What must hold whenever the server is down or up; returns the database for more."""
    db = sqlite3.connect(f"file:{server.data / 'server.sqlite'}?mode=ro", uri=True)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    for (sha256,) in db.execute("SELECT sha256 FROM blobs"):
        assert (server.data / "blobs" / sha256[:2] / sha256).exists(), "a row without its content"
    halves = "SELECT id FROM artifacts WHERE (state = 'COMMITTED') != (manifest_sha256 IS NOT NULL)"
    assert db.execute(halves).fetchall() == []
    alone = (
        "SELECT id FROM artifacts a WHERE state = 'COMMITTED' AND version_index IS NOT"
        " (SELECT version_index FROM artifact_memberships m"
        " WHERE m.artifact_id = a.id AND m.collection_id = a.sequence_id)"
    )
    assert db.execute(alone).fetchall() == []
    return db


def crash(server: Server, operation: str, action: Callable[[], Any]) -> Any:
    """Do what makes the server end before its commit; start it again, and do it once more."""
    server.fault(operation, crash=True, times=1)
    with pytest.raises(GONE):
        action()
    assert server.wait_for_exit() == CRASHED
    check(server).close()
    server.start()
    return action()


def kill_in_upload(server: Server, url: str) -> None:
    """SIGKILL while half of a file has come."""
    port, path = server.port, url.partition(str(server.port))[2]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nal".encode())
        wait_for(lambda: list((server.data / "staging").iterdir()), "the upload to begin")
        server.kill()
    server.start()


def test_a_crash_before_any_commit_undoes_that_step_only(own: Callable[..., Own]) -> None:
    made = own()
    server, client = made.server, made.client
    raw = Raw(server, client.key)
    files = {"a": b"alpha", "b": b"beta"}
    aliases = [{"alias": "best", "artifactCollectionName": "ck"}]
    draft: Draft = crash(server, "CreateArtifact", lambda: raw.begin("p", "ck", files, aliases=aliases))
    wanted = crash(server, "CreateArtifactFiles", draft.wanted)
    kill_in_upload(server, wanted[0]["uploadUrl"])
    assert [one["uploadUrl"] is None for one in draft.wanted()] == [False, False]
    assert list((server.data / "staging").iterdir()) == [], "half a file is of no use to anybody"
    assert crash(server, "upload", lambda: draft.send(wanted[0])) == 200
    assert [one["uploadUrl"] is None for one in draft.wanted()] == [True, False]
    assert draft.send(wanted[1]) == 200
    assert draft.send_manifest() == 200
    assert crash(server, "CommitArtifact", draft.commit)["versionIndex"] == 0
    second = raw.begin("p", "ck", {"a": b"other"}).log()
    place = {"entityName": "ada", "projectName": "p", "artifactCollectionName": "ck", "alias": "best"}

    def move() -> Any:
        return raw.mutate("addAliases", "success", artifactID=second["id"], aliases=[place])

    assert crash(server, "AddAliases", move)["success"] is True
    best = "SELECT version_index FROM artifact_aliases JOIN artifact_memberships m ON m.id = membership_id"
    assert check(server).execute(f"{best} WHERE alias = 'best'").fetchall() == [(1,)]

    def delete() -> Any:
        return raw.mutate("deleteArtifact", "artifact { state }", artifactID=draft.id)

    assert crash(server, "DeleteArtifact", delete)["artifact"]["state"] == "DELETED"
    left = check(server).execute("SELECT state, version_index FROM artifacts ORDER BY id").fetchall()
    assert left == [("DELETED", 0), ("COMMITTED", 1)]
    server.collect()
    check(server).close()


def test_the_client_goes_on_after_the_server_was_killed(own: Callable[..., Own]) -> None:
    made = own()
    server, client = made.server, made.client
    server.fault("CommitArtifact", crash=True, times=1)
    process = client.start(
        FILES
        + """
with wandb.init(project="killed") as run:
    made = log(run, artifact("ck", a="alpha", b="beta"), aliases=["best"])
    print(made.version, flush=True)
"""
    )
    try:
        assert server.wait_for_exit() == CRASHED
        server.start()
        out, err = process.communicate(timeout=300)
    finally:
        lose(process)
    assert (process.returncode, out.strip()) == (0, "v0"), err
    versions = check(server).execute("SELECT state, version_index FROM artifacts").fetchall()
    assert versions == [("COMMITTED", 0)]


def test_another_process_finishes_what_a_killed_client_began(own: Callable[..., Own]) -> None:
    made = own()
    server, client = made.server, made.client
    server.fault("upload", delay=600.0, after=1)
    code = (
        FILES
        + """
with wandb.init(project="resumed") as run:
    tell(log(run, artifact("ck", a="alpha", b="beta")).version)
"""
    )
    process = client.start(code)
    try:
        wait_for(lambda: server.faults()[0]["after"] == 0, "the first file to arrive")
        sent = "SELECT count(*) FROM slots WHERE key LIKE 'artifact/%'"
        wait_for(lambda: check(server).execute(sent).fetchone() == (1,), "the first file to be kept")
    finally:
        lose(process)
    server.clear_faults()
    assert client.run(code) == "v0"
    states = check(server).execute("SELECT state, version_index FROM artifacts").fetchall()
    assert states == [("COMMITTED", 0)], "the one that was begun has been finished"


def test_a_busy_storage_is_asked_again_and_a_closed_one_is_not(own: Callable[..., Own]) -> None:
    made = own()
    server, client = made.server, made.client
    server.fault("upload", drop_after=2, times=1)
    server.fault("upload", status=503, times=1)
    server.fault("upload", status=403, after=2, times=1)
    told = client.run(
        FILES
        + """
with wandb.init(project="busy") as run:
    first = log(run, artifact("ck", a="alpha")).version
    try: log(run, artifact("ck", b="beta")); said = ""
    except ValueError as error: said = str(error)
    third = log(run, artifact("ck", b="beta")).version
tell([first, said, third])
"""
    )
    assert told[0::2] == ["v0", "v1"]
    assert "have failed" in told[1]
