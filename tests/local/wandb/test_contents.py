"""Contents and slots: whole or not there, shared, collected; uploads in parts."""

from __future__ import annotations

import base64
import hashlib
import http.client
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from mlenv_local.wandb_server.app import make_services
from mlenv_local.wandb_server.errors import NotFound, Refused
from mlenv_local.wandb_server.settings import Settings
from mlenv_local.wandb_server.signing import Signer

if TYPE_CHECKING:
    from pathlib import Path

    from wandb_server import Server

    from mlenv_local.wandb_server.context import Services


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return make_services(Settings(data=tmp_path / "data"))


def put(services: Services, key: str, data: bytes, announced: str = "") -> Any:
    staged = services.blobs.stage()
    staged.write(data)
    return services.blobs.put(key, staged, announced)


def held(services: Services, key: str) -> bytes | None:
    with services.store.read() as db:
        content = services.blobs.slot(db, key)
    return services.blobs.read(content) if content else None


def test_a_slot_holds_the_last_whole_upload(services: Services) -> None:
    put(services, "run/1/a", b"one")
    put(services, "run/1/a", b"two", md5(b"two"))
    with pytest.raises(Refused, match="damaged"):
        put(services, "run/1/a", b"three", md5(b"other"))
    staged = services.blobs.stage()
    staged.write(b"four, unfinished")
    assert held(services, "run/1/a") == b"two"
    again = make_services(services.settings)
    assert held(again, "run/1/a") == b"two"
    assert list(services.settings.staging.iterdir()) == []


def test_contents_are_collected_when_nothing_refers_to_them(services: Services) -> None:
    for key in ("run/1/a", "run/10/a"):
        put(services, key, b"shared")
    only = put(services, "run/1/b", b"only here")
    with services.store.write() as db:
        services.blobs.drop(db, "run/1/")
    assert services.blobs.collect() == 1
    assert (held(services, "run/1/b"), held(services, "run/10/a")) == (None, b"shared")
    assert not services.blobs.path(only.sha256).exists()


def test_files_that_a_crash_has_left_are_collected(services: Services) -> None:
    services.store.before_commit = lambda: pytest.fail("a crash")
    with pytest.raises(pytest.fail.Exception), services.store.write() as db:
        services.blobs.add(db, "run/1/a", b"never committed")
    services.store.before_commit = lambda: None
    assert held(services, "run/1/a") is None
    assert services.blobs.collect() == 1
    assert services.blobs.collect() == 0


def part(services: Services, upload: str, number: int, data: bytes) -> tuple[int, str]:
    staged = services.blobs.stage()
    staged.write(data)
    return number, services.multipart.put_part(upload, number, staged)


def test_an_upload_in_parts_goes_on_after_a_restart(services: Services) -> None:
    with services.store.write() as db:
        upload = services.multipart.begin(db, "run/1/big")
    second = part(services, upload, 2, b"second")
    with pytest.raises(Refused, match="Part 1 was never received"):
        services.multipart.complete(upload, [(1, ""), second])
    again = make_services(services.settings)
    first = part(again, upload, 1, b"first, ")
    assert first == (1, hashlib.md5(b"first, ").hexdigest())
    with pytest.raises(Refused, match="send it again"):
        again.multipart.complete(upload, [first, (2, "0" * 32)])
    again.multipart.complete(upload, [second, first])
    assert again.multipart.complete(upload, [first, second]).size == 13
    assert held(again, "run/1/big") == b"first, second"
    assert list(services.settings.staging.iterdir()) == []


def test_an_aborted_upload_leaves_nothing(services: Services) -> None:
    with services.store.write() as db:
        upload = services.multipart.begin(db, "run/1/big")
    part(services, upload, 1, b"first")
    services.multipart.abort(upload)
    assert list(services.settings.staging.iterdir()) == []
    with pytest.raises(NotFound, match="aborted"):
        part(services, upload, 2, b"second")


def ask(url: str, method: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
    split = urlsplit(url)
    connection = http.client.HTTPConnection(split.netloc, timeout=30)
    connection.request(method, split.path, body, {name.replace("_", "-"): v for name, v in headers.items()})
    return connection.getresponse()


def signer(server: Server, lifetime: float = 60.0) -> Signer:
    return Signer((server.data / "url.key").read_text().strip().encode(), lifetime)


def test_contents_go_over_http_whole_or_in_ranges(shared: Server) -> None:
    data = bytes(range(256)) * 8192
    url = signer(shared).url(shared.url, "PUT", {"k": "test/http"})
    answer = ask(url, "PUT", data, Content_MD5=md5(data))
    assert (answer.status, answer.headers["ETag"]) == (200, f'"{hashlib.md5(data).hexdigest()}"')
    get = signer(shared).url(shared.url, "GET", {"h": hashlib.sha256(data).hexdigest(), "n": "a.bin"})
    assert ask(get, "GET").read() == data
    for asked, wanted in (
        ("bytes=0-99", data[:100]),
        ("bytes=2000000-", data[2000000:]),
        ("bytes=-5", data[-5:]),
    ):
        answer = ask(get, "GET", Range=asked)
        assert (answer.status, answer.read()) == (206, wanted)
    assert ask(get, "GET", Range=f"bytes={len(data)}-").status == 416


def test_a_url_is_for_one_thing_and_a_while(shared: Server) -> None:
    url = signer(shared).url(shared.url, "PUT", {"k": "test/forged", "md5": md5(b"right")})
    assert ask(url, "PUT", b"wrong").status == 400
    assert ask(url, "PUT", b"wrong", Content_MD5=md5(b"wrong")).status == 400
    assert ask(url, "GET").status == 403
    assert ask(url.replace("/storage/", "/storage/x"), "PUT", b"right").status == 403
    assert ask(signer(shared, lifetime=-1).url(shared.url, "PUT", {"k": "x"}), "PUT", b"right").status == 403
    assert ask(Signer(b"other", 60).url(shared.url, "PUT", {"k": "x"}), "PUT", b"right").status == 403
    assert ask(url, "PUT", b"right").status == 200


def test_urls_lead_back_to_where_the_client_asked() -> None:
    from starlette.requests import Request

    def base(headers: dict[str, str], public: str = "") -> str:
        from types import SimpleNamespace

        from mlenv_local.wandb_server.context import Services

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "scheme": "http", "server": ("127.0.0.1", 1), "path": "/", "headers": raw}
        owner: Any = SimpleNamespace(settings=SimpleNamespace(public_url=public))
        return Services.base_url(owner, Request(scope))

    assert base({"host": "wandb.mlenv:8080"}) == "http://wandb.mlenv:8080"
    forwarded = {"host": "10.0.0.1", "x-forwarded-host": "w.example.com", "x-forwarded-proto": "https, http"}
    assert base(forwarded) == "https://w.example.com"
    assert base(forwarded, "https://fixed/") == "https://fixed"


def test_what_the_client_reports_about_itself_is_not_taken(shared: Server) -> None:
    assert ask(f"{shared.url}/sdk/otel/v1/metrics", "POST", b"{}").status == 404


def test_a_request_that_cannot_fit_into_memory_is_refused(shared: Server) -> None:
    from mlenv_local.wandb_server import context

    answer = ask(f"{shared.url}/graphql", "POST", b" " * (context.LARGEST_BODY + 1))
    assert answer.status == 413


def test_any_table_can_keep_a_content(services: Services) -> None:
    kept = put(services, "run/1/a", b"kept")
    with services.store.write() as db:
        db.execute("CREATE TABLE other (held TEXT REFERENCES blobs (sha256))")
        db.execute("INSERT INTO other VALUES (?)", (kept.sha256,))
        services.blobs.drop(db, "run/1/")
    assert services.blobs.collect() == 0
    with services.store.write() as db:
        db.execute("DELETE FROM other")
    assert services.blobs.collect() == 1
