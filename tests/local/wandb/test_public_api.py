"""The public API: finding runs, changing them, their files, projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

RUNS = {
    "r0": {"config": {"lr": 0.1, "net": {"kind": "mlp"}}, "tags": ["old"], "loss": 3.0, "group": "a"},
    "r1": {
        "config": {"lr": 0.01, "net": {"kind": "dcn"}},
        "tags": ["old", "good"],
        "loss": 1.0,
        "group": "b",
    },
    "r2": {"config": {"lr": 0.001, "a.b": 1}, "tags": [], "loss": 2.0, "group": "b"},
}


@pytest.fixture(scope="module")
def found(environment: None, in_process: Any) -> Any:
    """A project with three runs, the last one failed."""
    for name, made in RUNS.items():
        settings = {"config": made["config"], "tags": made["tags"], "group": made["group"]}
        run = in_process.init(project="find", id=name, name=f"shown-{name}", **settings)
        run.log({"loss": made["loss"]})
        run.finish(exit_code=1 if name == "r2" else 0)
    return in_process.Api()


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, "r0 r1 r2"),
        ({"state": "finished"}, "r0 r1"),
        ({"state": {"$ne": "finished"}}, "r2"),
        ({"config.lr": 0.1}, "r0"),
        ({"config.lr.value": {"$lt": 0.05}}, "r1 r2"),
        ({"config.net.kind": "dcn"}, "r1"),
        ({"config.net.value.kind": "dcn"}, "r1"),
        ({"config.a.b": 1}, "r2"),
        ({"config.net": {"$exists": False}}, "r2"),
        ({"summary_metrics.loss": {"$gte": 2}}, "r0 r2"),
        ({"tags": "good"}, "r1"),
        ({"tags": {"$in": ["good", "other"]}}, "r1"),
        ({"tags": {"$nin": ["old"]}}, "r2"),
        ({"group": "b", "state": "finished"}, "r1"),
        ({"$or": [{"group": "a"}, {"display_name": "shown-r2"}]}, "r0 r2"),
        ({"$and": [{"group": "b"}, {"$not": {"state": "failed"}}]}, "r1"),
        ({"display_name": {"$regex": "r[01]$"}}, "r0 r1"),
        ({"created_at": {"$gt": "2020-01-01"}}, "r0 r1 r2"),
        ({"createdAt": {"$lt": "2020-01-01T00:00:00Z"}}, ""),
        ({"username": "ada", "name": "r2"}, "r2"),
    ],
)
def test_runs_are_found_by_what_they_are(found: Any, filters: dict[str, Any], names: str) -> None:
    assert [run.id for run in found.runs("ada/find", filters=filters)] == names.split()


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("+created_at", "r0 r1 r2"),
        ("-created_at", "r2 r1 r0"),
        ("+summary_metrics.loss", "r1 r2 r0"),
        ("-config.lr.value", "r0 r1 r2"),
        ("+group,-summary_metrics.loss", "r0 r2 r1"),
    ],
)
def test_runs_come_in_the_order_asked_for_page_by_page(found: Any, order: str, names: str) -> None:
    runs = found.runs("ada/find", order=order, per_page=1)
    assert len(runs) == 3
    assert [run.id for run in runs] == names.split()


def test_an_unknown_field_is_named_in_the_error(sdk: Any, found: Any) -> None:
    with pytest.raises(Exception, match="duration"):
        list(found.runs("ada/find", filters={"duration": {"$gt": 1}}))
    with pytest.raises(Exception, match=r"\$near"):
        list(found.runs("ada/find", filters={"config.lr": {"$near": 1}}))


def test_what_is_not_there_is_said_to_be_missing(sdk: Any, found: Any) -> None:
    with pytest.raises(Exception, match="Could not find run"):
        found.run("ada/find/nothing")
    with pytest.raises(Exception, match="Could not find project"):
        list(found.runs("ada/nothing"))


def test_config_summary_tags_and_name_change_through_the_api(sdk: Any) -> None:
    with sdk.init(project="change", id="one", config={"lr": 1}) as run:
        run.log({"loss": 1})
    run = sdk.Api().run("ada/change/one")
    run.config["lr"] = 2
    run.tags = ["new"]
    run.name = "renamed"
    run.summary["best"] = {"auc": 0.8}
    run.update()
    read = sdk.Api().run("ada/change/one")
    assert (read.config, read.tags, read.name) == ({"lr": 2}, ["new"], "renamed")
    assert (read.summary["best"]["auc"], read.summary["loss"], read.state) == (0.8, 1, "finished")


def test_states_go_only_where_they_may(sdk: Any) -> None:
    api = sdk.Api()
    run = api._create_run(run_id="made", project="change", entity="ada", state="pending")
    assert run.update_state("failed")
    assert run.update_state("pending")
    with sdk.init(project="change", id="made", resume="allow") as started:
        started.log({"loss": 1})
    read = sdk.Api().run("ada/change/made")
    assert read.state == "finished"
    with pytest.raises(Exception, match="cannot be set to 'pending'"):
        read.update_state("pending")


def test_files_are_sent_listed_fetched_and_deleted(sdk: Any, tmp_path: Path) -> None:
    sdk.init(project="files", id="one").finish()
    run = sdk.Api().run("ada/files/one")
    (tmp_path / "deep").mkdir()
    for name, text in (("deep/a b%.txt", "one"), ("deep/b.json", "{}"), ("c.txt", "x" * 100_000)):
        (tmp_path / name).write_text(text)
        run.upload_file(str(tmp_path / name), root=str(tmp_path))
    assert [file.name for file in run.files(pattern="deep/%")] == ["deep/a b%.txt", "deep/b.json"]
    assert [file.name for file in run.files(per_page=1) if file.name.endswith("txt")][-1] == "deep/a b%.txt"
    file = run.file("c.txt")
    assert (file.size, file.mimetype) == (100_000, "text/plain")
    assert file.download(root=str(tmp_path / "got")).read() == "x" * 100_000
    file.delete()
    assert "c.txt" not in [file.name for file in run.files()]


def test_a_deleted_run_is_gone_with_its_files(sdk: Any, shared: Any, tmp_path: Path) -> None:
    sdk.init(project="files", id="gone").finish()
    run = sdk.Api().run("ada/files/gone")
    (tmp_path / "only-here.txt").write_text("nobody else has this")
    url = run.upload_file(str(tmp_path / "only-here.txt"), root=str(tmp_path))
    run.delete()
    with pytest.raises(Exception, match="Could not find run"):
        sdk.Api().run("ada/files/gone")
    assert shared.collect() > 0
    with pytest.raises(Exception, match=r"404|deleted"):
        url.download(root=str(tmp_path / "got"))
    with sdk.init(project="files", id="gone", resume="allow") as run:
        assert not run.resumed


def test_projects_are_made_listed_and_found(sdk: Any) -> None:
    api = sdk.Api()
    api.create_project("listed", "ada")
    assert "listed" in [project.name for project in api.projects("ada")]
    assert api.project("listed", "ada").entity == "ada"
    assert api.viewer.username == "ada"
    assert [user.username for user in api.users("ada")] == ["ada"]


def test_what_is_not_served_is_named(sdk: Any) -> None:
    with pytest.raises(Exception, match=r"local W&B server does not serve.*launchAgents"):
        sdk.Api()._service_api.execute_graphql("query Agents { launchAgents { id } }")
