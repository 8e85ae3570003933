"""Behind a proxy, and a certificate of a private authority: both halves of the client must know of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from bench import Pod, put, tree
from gateway import HOST, Gateway
from wandb_server import Server

from mlenv.ckpt import names
from mlenv.courier import pages, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.close()


@pytest.fixture
def behind(tmp_path: Path, gateway: Gateway) -> Iterator[Callable[..., Pod]]:
    """A pod whose server is behind the gateway, and that has these variables."""
    server = Server(tmp_path / "wandb", public_url=f"https://{HOST}").start()
    gateway.to = server.port
    key = server.add_user("ada")
    made: list[Pod] = []

    def make(name: str, **env: str) -> Pod:
        pod = Pod(tmp_path / name, server, key, project="roads")
        unset = {*VARIABLES, *(one.lower() for one in VARIABLES)}
        pod.env = {one: value for one, value in pod.env.items() if one not in unset} | env
        pod.config = replace(pod.config, url=f"https://{HOST}")
        pod.restart()
        made.append(pod)
        return pod

    yield make
    for pod in made:
        pod.close()
    server.stop()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_checkpoint_goes_there_and_comes_back(
    behind: Callable[..., Pod], gateway: Gateway, variable: str
) -> None:
    pod = behind("pod", HTTPS_PROXY=gateway.url, **{variable: str(gateway.authority)})
    whole = put(pod.folder, 100)
    before = tree(pod.folder / whole.folder)
    pod.carry()
    assert pod.stored() == [(100, 1, True)]
    (pod.folder / whole.folder / names.STATE).unlink()
    pages.leave(pod.own, pages.Wanted(nonce="n", attempt=2))
    pod.turn()
    assert tree(pod.folder / whole.folder) == before
    assert set(gateway.asked) == {f"{HOST}:443"}


def test_without_the_certificate_it_is_told_what_to_look_at(
    behind: Callable[..., Pod], gateway: Gateway
) -> None:
    pod = behind("pod", HTTPS_PROXY=gateway.url)
    put(pod.folder, 100)
    for _ in range(3):
        pod.turn()
    report = pages.read(pod.own, pages.REPORT, pages.Report)
    assert report is not None
    assert report.degraded is not None
    assert report.degraded.reason == "StoreUnreachable"
    assert "check baseURL, proxy, certificates" in report.degraded.message


def test_what_is_said_for_one_half_counts_for_both(tmp_path: Path) -> None:
    def seen(**env: str) -> tuple[str | None, str | None]:
        found = quiet.environment(env, tmp_path, "key", "")
        return found.get("SSL_CERT_FILE"), found.get("REQUESTS_CA_BUNDLE")

    assert seen() == (None, None)
    assert seen(SSL_CERT_FILE="/a") == ("/a", "/a")
    assert seen(REQUESTS_CA_BUNDLE="/b") == ("/b", "/b")
    assert seen(SSL_CERT_FILE="/a", REQUESTS_CA_BUNDLE="/b") == ("/a", "/b")
