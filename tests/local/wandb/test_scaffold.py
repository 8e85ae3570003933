"""Users, keys, contents and faults, before there are runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:

    from wandb_server import Client


def test_the_client_learns_who_it_is(client: Client) -> None:
    told = client.run("""
        api = wandb.Api()
        viewer = api.viewer
        tell([api.default_entity, viewer.username, viewer.teams, viewer.admin])
    """)
    assert told == ["ada", "ada", ["ada"], False]


def test_a_wrong_key_is_refused(client: Client) -> None:
    client.key = "0" * 40
    said = client.fails("wandb.init(project='p', mode='online')")
    assert "The API key is not one of this server's" in said
