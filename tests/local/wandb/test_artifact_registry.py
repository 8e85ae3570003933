"""The public API over artifacts: types, collections, filters, pages; links and the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wandb_artifacts import FILES

if TYPE_CHECKING:
    from wandb_artifacts import Here


def test_the_public_api_lists_filters_sorts_and_pages(here: Here) -> None:
    told = here.run(
        FILES
        + """
with wandb.init(project="many") as run:
    for number in range(5):
        made = artifact("ck", a=str(number))
        made.metadata = {"step": number, "deep": {"loss": 1 / (number + 1)}}
        log(run, made, aliases=[f"step-{number}"], tags=["even" if number % 2 == 0 else "odd"])
    log(run, artifact("zebra", b="b")); log(run, artifact("model-1", "model", c="c"))
api = wandb.Api()
def versions(**more): return [one.version for one in api.artifacts("set", "many/ck", **more)]
kind = api.artifact_type("set", "many")
def names(**more): return [one.name for one in kind.collections(**more)]
from wandb.apis.public.artifacts import Artifacts
def chosen(filters, order=None):
    found = Artifacts(api._service_api, "ada", "many", "ck", "set", filters, order, per_page=2)
    return [one.version for one in found]
ck = api.artifact_collection("set", "many/ck")
tell({
    "newest": versions(), "paged": versions(per_page=2), "tagged": versions(tags=["even"]),
    "length": len(api.artifacts("set", "many/ck", per_page=1)),
    "ascending": versions(order="+created_at") == versions(order="created_at"),
    "step": chosen({"metadata.step": {"$gte": 3}}, "+version_index"),
    "loss": chosen({"metadata.deep.loss": 1.0}),
    "either": chosen({"$or": [{"alias": "step-1"}, {"tag": {"$in": ["even"]}}]}, "-version_index"),
    "types": sorted(one.name for one in api.artifact_types("many")),
    "collections": names(), "by_name": names(order="-name"),
    "matching": names(filters={"name": {"$regex": "^z"}}),
    "of_project": sorted(one.name for one in api.project("many", "ada").collections()),
    "aliases": sorted(ck.aliases),
    "exists": [api.artifact_exists("many/ck:v4"), api.artifact_exists("many/ck:v5"),
               api.artifact_collection_exists("many/ck", "set")],
    "files": [file.name for file in api.artifact("many/ck:v0").files()],
})
"""
    )
    assert told == {
        "newest": ["v4", "v3", "v2", "v1", "v0"],
        "paged": ["v4", "v3", "v2", "v1", "v0"],
        "tagged": ["v4", "v2", "v0"],
        "length": 5,
        "ascending": True,
        "step": ["v3", "v4"],
        "loss": ["v0"],
        "either": ["v4", "v2", "v1", "v0"],
        "types": ["model", "set"],
        "collections": ["zebra", "ck"],
        "by_name": ["zebra", "ck"],
        "matching": ["zebra"],
        "of_project": ["ck", "model-1", "zebra"],
        "aliases": ["latest", "step-0", "step-1", "step-2", "step-3", "step-4"],
        "exists": [True, False, True],
        "files": ["a"],
    }


def test_collections_are_renamed_described_tagged_and_moved(here: Here) -> None:
    told = here.run(
        FILES
        + """
with wandb.init(project="renamed") as run:
    log(run, artifact("old", a="a")); log(run, artifact("taken", b="b"))
api = wandb.Api()
one = api.artifact_collection("set", "renamed/old")
one.name, one.description, one.type, one.tags = "new", "described", "other", ["x", "y"]
one.save()
one = api.artifact_collection("other", "renamed/new")
one.tags = ["y"]; one.save()
try: one.name = "taken"; one.save(); refused = False
except Exception: refused = True
again = api.artifact_collection("other", "renamed/new")
try:
    with wandb.init(project="renamed") as run: log(run, artifact("taken", "other", a="a"))
    said = ""
except ValueError as error: said = str(error)
tell([again.description, again.tags, again.type, api.artifact("renamed/new:latest").type, refused, said])
"""
    )
    assert "already exists with type 'set'" in told.pop()
    assert told == ["described", ["y"], "other", "other", True]


def test_links_into_the_registry_and_back(here: Here) -> None:
    told = here.run(
        FILES
        + """
from wandb.errors import CommError
with wandb.init(project="publish") as run:
    for text in ("one", "two"): log(run, artifact("ck", "model", a=text))
api = wandb.Api()
first, second = api.artifact("publish/ck:v0"), api.artifact("publish/ck:v1")
linked = second.link("wandb-registry-model/home", aliases=["candidate"])
first.link("wandb-registry-model/home")
first.link("wandb-registry-model/home", aliases=["production"])
path = "local-org/wandb-registry-model/home"
fetched = api.artifact("wandb-registry-model/home:production")
root = fetch(fetched); fetched.verify(root)
try: first.link("wandb-registry-missing/home"); said = ""
except Exception as error: said = str(error)
sources = [one.qualified_name for one in first.linked_artifacts]
candidate = api.artifact("wandb-registry-model/home:candidate")
unlinked = api.artifact("wandb-registry-model/home:v0"); unlinked.unlink()
there = api.artifact_exists
tell({
    "linked": [linked.qualified_name, linked.is_link, sorted(linked.aliases), linked.source_name],
    "fetched": [fetched.qualified_name, fetched.is_link, sorted(fetched.aliases), fetched.source_name,
                open(os.path.join(root, "a")).read()],
    "sources": sources, "candidate": candidate.version, "said": said,
    "left": [there(f"{path}:v0"), there(f"{path}:v1"), there("publish/ck:v1")],
    "registries": sorted(one.name for one in api.registries("local")),
    "collections": [one.name for one in api.registries("local", filter={"name": "model"}).collections()],
    "versions": [one.name for one in api.registries("local", filter={"name": "model"})
                 .versions(filter={"alias": "production"})],
})
"""
    )
    assert "There is no registry 'wandb-registry-missing'" in told.pop("said")
    assert told == {
        "linked": ["local-org/wandb-registry-model/home:v0", True, ["candidate", "latest"], "ck:v1"],
        "fetched": [
            "local-org/wandb-registry-model/home:production",
            True,
            ["latest", "production"],
            "ck:v0",
            "one",
        ],
        "sources": ["local-org/wandb-registry-model/home:v1"],
        "candidate": "v0",
        "left": [False, True, True],
        "registries": ["dataset", "model"],
        "collections": ["home"],
        "versions": ["home:v1"],
    }


def test_registries_are_made_restricted_renamed_and_deleted(here: Here) -> None:
    told = here.run(
        FILES
        + """
api = wandb.Api()
made = api.create_registry("ranks", visibility="organization", organization="local", description="d",
                           artifact_types=["model"])
with wandb.init(project="publish2") as run:
    model, other = log(run, artifact("ck", "model", a="a")), log(run, artifact("data", "set", b="b"))
taken = model.link("wandb-registry-ranks/home").qualified_name
try: other.link("wandb-registry-ranks/data"); said = ""
except Exception as error: said = str(error)
made.description = "more"; made.name = "rankers"; made.save()
again = api.registry("rankers", organization="local")
state = [again.description, again.allow_all_artifact_types, list(again.artifact_types), again.visibility]
fetched = api.artifact("wandb-registry-rankers/home:latest").version
again.delete()
gone = not api.artifact_exists("wandb-registry-rankers/home:latest")
tell([taken, said, state, fetched, gone, api.artifact("publish2/ck:v0").state])
"""
    )
    assert "takes artifacts of type model" in told.pop(1)
    assert told == [
        *["local-org/wandb-registry-ranks/home:v0", ["more", False, ["model"], "organization"]],
        *["v0", True, "COMMITTED"],
    ]
