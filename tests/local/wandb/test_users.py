"""Several users, keys and teams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlenv_local.errors import LocalError

if TYPE_CHECKING:
    from wandb_server import Client, Server


@pytest.fixture(scope="module")
def keys(shared: Server, shared_key: str) -> dict[str, str]:
    """Users bob and zoe, and a team of ada and bob."""
    keys = {"ada": shared_key, "bob": shared.add_user("bob"), "zoe": shared.add_user("zoe")}
    shared.add_team("rankers", "ada", "bob")
    return keys


def test_members_of_a_team_share_its_runs_and_nobody_else_sees_them(
    sdk: Any, client: Client, keys: dict[str, str]
) -> None:
    with sdk.init(entity="rankers", project="ctr", id="one") as run:
        run.log({"loss": 1})
    bob, zoe = sdk.Api(api_key=keys["bob"]), sdk.Api(api_key=keys["zoe"])
    assert (bob.default_entity, zoe.default_entity) == ("bob", "zoe")
    assert bob.viewer.teams == ["bob", "rankers"]
    read = bob.run("rankers/ctr/one")
    assert (read.state, read.user.username) == ("finished", "ada")
    read.tags = ["seen"]
    read.update()
    assert sdk.Api().run("rankers/ctr/one").tags == ["seen"]
    with pytest.raises(Exception, match="Could not find run"):
        zoe.run("rankers/ctr/one")
    assert list(zoe.projects("rankers")) == []
    assert [member.username for member in bob.team("rankers").members] == ["ada", "bob"]
    client.key = keys["zoe"]
    said = client.fails("wandb.init(entity='rankers', project='ctr')")
    assert "permission denied" in said


def test_the_default_entity_is_ones_own(sdk: Any, keys: dict[str, str]) -> None:
    """An entity that is null in a query means that of the key; otherwise a resume becomes a new run."""
    with sdk.init(project="mine", id="one", resume="allow") as run:
        assert run.entity == "ada"
    query = 'query Q { model(name: "mine") { bucket(name: "one", missingOk: true) { name } } }'
    ask = sdk.Api()._service_api.execute_graphql
    assert ask(query)["model"]["bucket"] == {"name": "one"}
    assert sdk.Api(api_key=keys["bob"])._service_api.execute_graphql(query) == {"model": None}


def test_a_wrong_key_is_refused_with_a_sentence(client: Client) -> None:
    client.key = "0" * 40
    assert "The API key is not one of this server's" in client.fails("wandb.init(project='p')")


def test_a_key_can_be_added_and_taken_back(sdk: Any, keys: dict[str, str]) -> None:
    zoe = sdk.Api(api_key=keys["zoe"]).viewer
    made = zoe.generate_api_key()
    assert sdk.Api(api_key=made).viewer.username == "zoe"
    listed = sdk.Api(api_key=keys["zoe"])._service_api.execute_graphql(
        "query Q { viewer { apiKeys { edges { node { id name } } } } }"
    )
    ids = {edge["node"]["name"]: edge["node"]["id"] for edge in listed["viewer"]["apiKeys"]["edges"]}
    assert made not in ids, "keys are stored as hashes"
    delete = "mutation DeleteApiKey($id: String!) { deleteApiKey(input: {id: $id}) { success } }"
    sdk.Api(api_key=made)._service_api.execute_graphql(delete, {"id": ids[f"{made[:4]}…"]})
    with pytest.raises(Exception, match="not one of this server's"):
        sdk.Api(api_key=made)._service_api.execute_graphql("query Q { viewer { id } }")


def test_names_are_unique_and_plain(shared: Server, keys: dict[str, str]) -> None:
    with pytest.raises(LocalError, match="already"):
        shared.add_user("rankers")
    with pytest.raises(LocalError, match="no name"):
        shared.add_user("../x")
    with pytest.raises(LocalError, match="no user"):
        shared.add_team("new", "nobody")
