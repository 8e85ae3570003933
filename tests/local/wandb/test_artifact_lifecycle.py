"""What becomes of versions: aliases, tags, edits, uses, links, expiry, deletion, contents nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wandb_artifacts import FILES
from wandb_server import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Own
    from wandb_artifacts import Here
    from wandb_server import Client, Server


def test_aliases_tags_and_edits(here: Here) -> None:
    told = here.run(
        FILES
        + """
import datetime
from wandb.sdk.artifacts.artifact_ttl import ArtifactTTL
with wandb.init(project="edits") as run:
    for text in ("one", "two"): log(run, artifact("ck", a=text))
api = wandb.Api()
def aliases(): return {one.version: sorted(one.aliases) for one in api.artifacts("set", "edits/ck")}
first, second = api.artifact("edits/ck:v0"), api.artifact("edits/ck:v1")
second.aliases += ["sane", "best"]; second.save()
before = aliases()
first.aliases.append("sane"); first.tags += ["good", "x y"]; first.metadata["loss"] = 0.5
first.description, first.ttl = "edited", datetime.timedelta(hours=1)
first.save()
moved = aliases()
second.aliases.remove("best"); second.save()
first.tags.remove("x y"); first.ttl = ArtifactTTL.INHERIT; first.save()
again = api.artifact("edits/ck:sane")
refused = []
for alias in ("v7", "a/b"):
    try: second.aliases.append(alias); second.save()
    except Exception as error: refused.append(alias)
    second.aliases.remove(alias)
tell({"before": before, "moved": moved, "after": aliases(), "refused": refused,
      "again": [again.version, again.tags, again.metadata, again.description, again.ttl]})
"""
    )
    assert told == {
        "before": {"v0": [], "v1": ["best", "latest", "sane"]},
        "moved": {"v0": ["sane"], "v1": ["best", "latest"]},
        "after": {"v0": ["sane"], "v1": ["latest"]},
        "refused": ["v7", "a/b"],
        "again": ["v0", ["good"], {"loss": 0.5}, "edited", None],
    }


def test_lineage_goes_both_ways(here: Here) -> None:
    told = here.run(
        FILES
        + """
with wandb.init(project="lineage", id="maker") as run:
    log(run, artifact("ck", a="one"))
for name in ("u1", "u2"):
    with wandb.init(project="lineage", id=name) as run:
        used = run.use_artifact("ck:latest"); run.use_artifact(used)
        if name == "u2": log(run, artifact("out", "model", b="two"))
api = wandb.Api()
ck = api.artifact("lineage/ck:v0")
user = api.run("lineage/u2")
tell({
    "logged_by": ck.logged_by().id, "used_by": [run.id for run in ck.used_by()],
    "used": [one.name for one in user.used_artifacts()],
    "logged": [one.name for one in user.logged_artifacts()],
    "made": [one.name for one in api.run("lineage/maker").logged_artifacts()],
    "none": [len(user.used_artifacts()), [run.id for run in api.artifact("lineage/out:v0").used_by()]],
    "deleted": [user.delete(delete_artifacts=True), api.artifact_exists("lineage/out:v0"),
                api.artifact_exists("lineage/ck:v0"), [run.id for run in ck.used_by()]],
})
"""
    )
    assert told == {
        "logged_by": "maker",
        "used_by": ["u1", "u2"],
        "used": ["ck:v0"],
        "logged": ["out:v0"],
        "made": ["ck:v0"],
        "none": [1, []],
        "deleted": [None, False, True, ["u1"]],
    }


def test_deletion_spares_aliases_and_shared_contents(
    own: Callable[..., Own],
) -> None:
    made = own()
    server, client = made.server, made.client
    told = client.run(
        FILES
        + """
from wandb.errors import CommError
with wandb.init(project="gone") as run:
    log(run, artifact("ck", a="shared", b="only in v0"))
    log(run, artifact("ck", a="shared", c="only in v1"))
    log(run, artifact("other", d="deleted with its collection"))
api = wandb.Api()
try: api.artifact("gone/ck:v1").delete(); said = ""
except CommError as error: said = str(error)
first = api.artifact("gone/ck:v0"); first.delete()
there = api.artifact_exists("gone/ck:v0")
api.artifact_collection("set", "gone/other").delete()
left = api.artifact("gone/ck:v1")
root = fetch(left); left.verify(root)
with wandb.init(project="gone") as run: third = log(run, artifact("ck", a="shared", b="only in v0"))
tell({"said": said, "there": there, "files": sorted(os.listdir(root)), "third": third.version,
      "collections": [one.name for one in api.artifact_type("set", "gone").collections()]})
"""
    )
    assert "has the aliases latest" in told.pop("said")
    assert told == {"there": False, "files": ["a", "c"], "third": "v2", "collections": ["ck"]}
    assert server.collect() >= 2, "the manifests and files of what was deleted"
    assert server.collect() == 0
    told = client.run("""
fetched = wandb.Api().artifact("gone/ck:latest")
root = fetched.download(); fetched.verify(root)
tell(sorted(os.listdir(root)))
""")
    assert told == ["a", "b"], "what is needed has not been collected"


def test_a_version_ends_with_its_time_unless_it_is_linked(here: Here) -> None:
    here.run(
        FILES
        + """
import datetime
with wandb.init(project="expiry") as run:
    made = artifact("alone", a="alone")
    made.ttl = datetime.timedelta(seconds=1)
    run.log_artifact(made)  # and not waited for: by then its time may be over
    made = log(run, artifact("linked", a="linked"))
    made.link("expiry/published")
    made.ttl = datetime.timedelta(seconds=1)  # not sooner: linking takes time, too
    made.save()
"""
    )
    told = here.run(
        FILES
        + """
import time
api, deadline = wandb.Api(), time.monotonic() + 300
there = api.artifact_exists
while there("expiry/alone:v0") and time.monotonic() < deadline: time.sleep(0.1)
left = [there("expiry/alone:v0"), there("expiry/linked:v0"), there("expiry/published:v0")]
with wandb.init(project="expiry") as run: tell([*left, log(run, artifact("alone", a="anew")).version])
"""
    )
    assert told == [False, True, True, "v1"], "v0 was there, and is not any more"


def test_others_neither_see_nor_touch_a_users_artifacts(here: Here, client: Client, shared: Server) -> None:
    here.run(
        FILES
        + """
with wandb.init(project="private") as run:
    log(run, artifact("ck", a="one"))
    log(run, artifact("shown", a="two")).link("wandb-registry-dataset/shown")
"""
    )
    artifact = here.run('tell(wandb.Api().artifact("private/ck:v0").id)')
    client.key = shared.add_user("eve")
    told = client.run(
        FILES
        + """
api = wandb.Api()
def tried(action):
    try: return action() is not None
    except Exception: return False
query = "query A($id: ID!) { artifact(id: $id) { id } }"
change = '''mutation D($id: ID!) {
  deleteArtifact(input: {artifactID: $id, deleteAliases: true}) { artifact { id } }
}'''
send = api._service_api.execute_graphql
tell([tried(lambda: api.artifact("ada/private/ck:v0")), send(query, {"id": sys.argv[1]})["artifact"],
      tried(lambda: send(change, {"id": sys.argv[1]}))])
shown = api.artifact("local-org/wandb-registry-dataset/shown:latest")
root = fetch(shown); shown.verify(root)
assert shown.source_project == "" and shown.logged_by() is None and shown.used_by() == []
""",
        artifact,
    )
    assert told == [False, None, False]
    shared.add_team("crew", "ada", "eve")
    told = client.run(
        FILES
        + """
with wandb.init(entity="crew", project="shared") as run:
    tell(log(run, artifact("ck", a="one")).qualified_name)
"""
    )
    assert told == "crew/shared/ck:v0"


def test_an_abandoned_upload_leaves_no_version(here: Here, shared: Server) -> None:
    """Committed is only what was complete; the refusal says what is missing."""
    shared.fault("CommitArtifact", error="no commit today", times=1)
    told = here.run(
        FILES
        + """
with wandb.init(project="abandoned") as run:
    try: log(run, artifact("ck", a="one")); said = ""
    except ValueError as error: said = str(error)
api = wandb.Api()
collections = api.artifact_type("set", "abandoned").collections()
tell([said, len(collections), len(api.artifacts("set", "abandoned/ck"))])
"""
    )
    assert "no commit today" in told[0]
    assert told[1:] == [1, 0]
    assert wait_for(lambda: not any(rule["times"] for rule in shared.faults()), "the fault to be used up")
    shared.clear_faults()
