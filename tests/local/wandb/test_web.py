"""The page for people, filled by the real client: over plain HTTP, and in a real browser."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from browser import chromium
from playwright.sync_api import expect
from wandb_artifacts import FILES, Here, Raw
from wandb_server import PATIENCE

from mlenv_local.wandb_server.web import charts, frame, markup, urls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page
    from wandb_server import Server

NASTY = """<script>alert(1)</script> "it's" & 🦊 ünï"""
TYPE = "a/b <i>"
FILE = "folder/<b>weights</b> 'é'.bin"


@pytest.fixture(scope="module")
def filled(environment: None, in_process: Any, shared: Server, sdk_folder: Path) -> Iterator[dict[str, str]]:
    """What a training run, an evaluation and somebody who publishes have left; with addresses as printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sdk_folder)
        yield fill(Here(in_process, shared))


def fill(here: Here) -> dict[str, str]:
    found: dict[str, str] = here.run(
        FILES
        + f"""
nasty, kind, path = {NASTY!r}, {TYPE!r}, {FILE!r}
project = 'shop "ctr" <b>'
with wandb.init(project=project, id="train-1", name=nasty, group=nasty, tags=[nasty[:20]], notes=nasty,
                config={{"lr": 0.1, "deep": {{"<i>": [1, nasty]}}}}) as run:
    for step in range(60):
        run.log({{"loss": 1 / (step + 1), "auc <b>": 0.5 + step / 200, "flat": 3, nasty: step}})
    run.log({{"loss": float("nan"), "rare": 1.0}})
    with open("note.txt", "w") as file: file.write("a note")
    run.save("note.txt", policy="now")
    made = artifact("ck", kind, **{{path: "weights"}})
    made.metadata, made.description = {{"loss": 0.1, nasty: nasty}}, nasty
    made.add_reference("javascript:alert(1)//<b>", checksum=False, name="far")
    log(run, made, aliases=["best"], tags=["good"])
    urls = {{"run": run.url, "project": run.project_url, "artifact": made.url}}
with wandb.init(project=project, id="eval-1", name="evaluation") as run:
    used = run.use_artifact("ck:best")
    linked = used.link("wandb-registry-model/served <b>")
    log(run, artifact("report", "report", a="a"))
tell({{**urls, "link": linked.url}})
"""
    )
    return found


@dataclass
class Visitor:
    """Somebody with a cookie, without a browser."""

    server: Server
    cookie: str = ""

    def get(self, path: str) -> tuple[int, str, Any]:
        headers = {"Cookie": self.cookie} if self.cookie else {}
        status, body, answered = Raw.http("GET", f"{self.server.url}{path}", **headers)
        return status, body.decode(errors="replace"), answered

    def page(self, path: str) -> str:
        status, body, _ = self.get(path)
        assert status == 200, (status, path, body)
        return body

    def sign_in(self, key: str, **headers: str) -> tuple[int, str, Any]:
        form = urlencode({"key": key, "next": "/ada"}).encode()
        status, body, answered = Raw.http("POST", f"{self.server.url}{urls.SIGN_IN}", form, **headers)
        self.cookie = (answered["set-cookie"] or "").partition(";")[0]
        return status, body.decode(), answered


@pytest.fixture
def ada(shared: Server, shared_key: str) -> Visitor:
    visitor = Visitor(shared)
    assert visitor.sign_in(shared_key)[0] == 303
    return visitor


def path_of(url: str) -> str:
    """What a browser sends for an address as the client prints it."""
    parts = urlsplit(url)
    return quote(parts.path, safe="/%") + (f"?{quote(parts.query, safe='=&%')}" if parts.query else "")


def links(page: str) -> list[str]:
    return [html.unescape(one) for one in re.findall(r'href="([^"]*)"', page)]


def test_what_a_user_wrote_never_becomes_markup(ada: Visitor, filled: dict[str, str]) -> None:
    seen = {name: ada.page(path_of(filled[name])) for name in ("run", "project", "artifact")}
    for page in seen.values():
        assert "<script" not in page
        assert "<b>" not in page
        assert "<i>" not in page
    for name in ("run", "project"):
        assert markup.text(NASTY) in seen[name]
    assert markup.text(FILE) in seen["artifact"]
    assert "javascript:alert(1)//&lt;b&gt;" in seen["artifact"]
    assert not [link for link in links(seen["artifact"]) if link.startswith("javascript:")]


def test_all_pages_are_linked_and_open(ada: Visitor, filled: dict[str, str]) -> None:
    """From the first page on, every link to what these tests left leads to a page or a file."""
    inside = (path_of(filled["project"]), "/local-org", "/storage/", "/static/")
    waiting, seen = ["/", "/ada"], set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (path in ("/", "/ada") or path.startswith(inside)):
            continue
        seen.add(path)
        status, body, answered = ada.get(path)
        assert status == 200, (status, path, body)
        if answered["content-type"].startswith("text/html") and "/storage/" not in path:
            waiting += links(body)
    assert {urlsplit(filled[name]).path for name in ("run", "project")} <= seen
    assert [path for path in seen if path.startswith("/storage/")]
    assert urls.path("local-org", "wandb-registry-model", "artifacts", TYPE, "served <b>", "v0") in seen


def test_addresses_that_the_client_prints_open_their_page(ada: Visitor, filled: dict[str, str]) -> None:
    assert "ck:v0" in ada.page(path_of(filled["artifact"]))
    status, _, answered = ada.get(path_of(filled["link"]))
    assert status == 303
    linked = ada.page(answered["location"])
    assert "Linked from" in linked
    for wanted in ("/evil.example/x", "a/b", ""):
        assert ada.get(f"/orgs/local/registry/model?selectionPath={wanted}")[0] == 404
    assert urls.path("ada", 'shop "ctr" <b>', "artifacts", TYPE, "ck", "v0") in links(linked)


def test_every_page_forbids_scripts_and_what_is_elsewhere(ada: Visitor, filled: dict[str, str]) -> None:
    for path in ("/", path_of(filled["run"]), "/nobody", urls.SIGN_IN):
        _, body, answered = ada.get(path)
        policy = answered["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self';")
        assert answered["x-content-type-options"] == "nosniff"
        assert answered["cache-control"] == "no-store"
        assert not [link for link in links(body) if not link.startswith(("/", "#"))]
        assert " style=" not in body


def test_without_a_session_every_page_asks_to_sign_in(shared: Server, filled: dict[str, str]) -> None:
    forged = f"mlenv_wandb_session={filled['run'].rpartition('/')[2]}.x"
    for visitor in (Visitor(shared), Visitor(shared, forged)):
        for path in ("/", path_of(filled["run"]), "/nobody/nothing?page=2"):
            status, _, answered = visitor.get(path)
            assert (status, answered["location"]) == (303, f"/login?next={quote(path)}")


def test_the_cookie_is_for_this_server_and_ends_with_its_key(shared: Server, ada: Visitor) -> None:
    key = shared.admin("POST", "/admin/keys", {"username": "ada"})["key"]
    visitor = Visitor(shared)
    status, _, answered = visitor.sign_in(key)
    assert (status, answered["location"]) == (303, "/ada")
    cookie = answered["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= set(cookie.split("; "))
    assert key not in cookie
    raw = Raw(shared, key)
    asked = raw("query Q { viewer { apiKeys { edges { node { id name } } } } }")
    edges = asked["viewer"]["apiKeys"]["edges"]
    row = next(one["node"]["id"] for one in edges if one["node"]["name"] == f"{key[:4]}…")
    assert visitor.get("/")[0] == 200
    raw("mutation DeleteApiKey($id: String!) { deleteApiKey(input: {id: $id}) { success } }", id=row)
    assert visitor.get("/")[0] == 303
    assert ada.get("/")[0] == 200


def test_a_wrong_key_or_another_sites_form_signs_nobody_in(shared: Server, shared_key: str) -> None:
    visitor = Visitor(shared)
    status, body, answered = visitor.sign_in("0" * 40)
    assert (status, answered["set-cookie"]) == (401, None)
    assert "not one of this server" in body
    for origin in ("https://evil.example", "null"):
        status, body, answered = visitor.sign_in(shared_key, Origin=origin)
        assert (status, answered["set-cookie"]) == (403, None)
    assert visitor.sign_in(shared_key, Origin=shared.url)[0] == 303
    assert visitor.sign_in("x" * 10_000)[0] == 413


def test_nothing_but_get_reaches_a_page(ada: Visitor, filled: dict[str, str]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        url = f"{ada.server.url}{path_of(filled['run'])}"
        assert Raw.http(method, url, b"", Cookie=ada.cookie)[0] == 405


def test_what_is_not_ones_own_is_not_found(shared: Server, ada: Visitor, filled: dict[str, str]) -> None:
    stranger = Visitor(shared)
    stranger.sign_in(shared.add_user("eve-of-the-web"))
    for name in ("run", "project", "artifact"):
        assert stranger.get(path_of(filled[name]))[0] == 404
    project = urls.path("ada", 'shop "ctr" <b>')
    for path in ("/ada", f"{project}/artifacts", f"{project}/artifacts/report/report"):
        assert stranger.get(path)[0] == 404
    assert "ctr" not in stranger.page("/")
    for path in ("/none", "/ada/none", f"{project}/runs/none", f"{project}/artifacts/x/ck/v9"):
        assert ada.get(path)[0] == 404, path
    for number in ("0", "x", "9" * 30):
        assert ada.get(f"{project}?page={number}")[0] == 404, number


def test_whoever_sees_only_the_link_sees_nothing_of_its_source(
    shared: Server, filled: dict[str, str]
) -> None:
    stranger = Visitor(shared)
    stranger.sign_in(shared.add_user("zed-of-the-web"))
    page = stranger.page(
        urls.path("local-org", "wandb-registry-model", "artifacts", TYPE, "served <b>", "v0")
    )
    assert "a run that you may not see" in page
    assert "train-1" not in page
    assert "/ada/" not in page


def test_many_runs_are_paged_the_newest_first(shared: Server, shared_key: str, ada: Visitor) -> None:
    raw = Raw(shared, shared_key)
    version = raw.begin("paged", "much-used", {"a": b"a"}).log()["id"]
    names = {"entityName": "ada", "projectName": "paged"}
    for number in range(frame.PER_PAGE + 1):
        raw.mutate(
            "upsertBucket", "inserted", name=f"run-{number}", modelName="paged", displayName=f"r{number}"
        )
        raw.mutate("useArtifact", "artifact { id }", artifactID=version, **names, runName=f"run-{number}")
    used = ada.page("/ada/paged/artifacts/set/much-used/v0")
    assert f"The last {frame.PER_PAGE} of {frame.PER_PAGE + 1} runs" in used
    assert used.count("/ada/paged/runs/") == frame.PER_PAGE
    first, second = ada.page("/ada/paged"), ada.page("/ada/paged?page=2")
    assert (first.count('scope="row"'), second.count('scope="row"')) == (frame.PER_PAGE, 1)
    assert "/ada/paged/runs/run-50" in links(first)
    assert "/ada/paged/runs/run-0" in links(second)
    assert "/ada/paged?page=2" in links(first)
    assert "/ada/paged?page=1" in links(second)


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("/ada/x?page=2", "/ada/x?page=2"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\r\nx", "/"),
        ("", "/"),
    ],
)
def test_after_signing_in_one_stays_here(wanted: str, path: str) -> None:
    assert urls.after_sign_in(wanted) == path


def test_charts_hold_any_numbers() -> None:
    for points in (
        [(0.0, 1.0)],
        [(0.0, 2.0), (1.0, 2.0)],
        [(0.0, -1.7e308), (1.0, 1.7e308)],
        [(3.0, 5e-324)],
    ):
        for x, y in charts.scaled(points):
            assert 0 <= x <= charts.WIDTH
            assert 0 <= y <= charts.HEIGHT
    drawn = charts.chart('<x>"', [(0.0, 1.0), (1.0, 0.5)])
    assert "&lt;x&gt;&quot;: 1 at step 0, 0.5 at step 1; lowest 0.5, highest 1" in drawn
    assert [charts.number(one) for one in ("NaN", True, None, float("inf"), 10**400)] == [None] * 5


def test_names_of_all_kinds_survive_an_address() -> None:
    for name in (NASTY, TYPE, "a%2Fb", "..", "x?y#z"):
        assert urls.parts(urls.path("a", name, "b").encode()) == ["a", name, "b"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * PATIENCE)
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages in a profile of their own; what a page complained of fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(**options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def signed_in(page: Page, url: str, key: str) -> Page:
    """Opens what the client printed, signs in on the way."""
    page.goto(url)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda now: "/login" not in now)
    return page


@pytest.mark.browser
def test_from_the_printed_address_to_the_files_and_along_the_lineage(
    open_page: Callable[..., Page], shared_key: str, filled: dict[str, str]
) -> None:
    page = signed_in(open_page(), filled["run"], shared_key)
    assert urlsplit(page.url).path == urlsplit(filled["run"]).path
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text(NASTY)
    expect(page.locator(".state")).to_have_text("finished")
    loss = page.get_by_role("img", name="loss: 1 at step 0, 0.0166667 at step 59")
    assert loss.bounding_box() is not None
    assert page.locator("polyline.line").first.evaluate("one => getComputedStyle(one).fill") == "none"
    page.get_by_role("link", name="ck:v0").click()
    expect(page.locator("dt:has-text('Aliases') + dd")).to_have_text("best latest")
    with page.expect_download() as downloading:
        page.get_by_role("link", name=FILE).click()
    assert downloading.value.path().read_text() == "weights"
    page.get_by_role("link", name="evaluation").click()
    expect(title).to_have_text("evaluation")
    page.get_by_role("link", name="ck:v0").click()
    page.get_by_role("link", name="served <b>:v0").click()
    page.locator("dt:has-text('Linked from') + dd a").click()
    expect(title).to_have_text("ck:v0")
    page.get_by_role("navigation", name="Where you are").get_by_role("link", name="Artifacts").click()
    expect(page.get_by_role("rowheader")).to_have_text(["ck", "report"])


@pytest.mark.browser
def test_signing_out_ends_it(open_page: Callable[..., Page], shared: Server, shared_key: str) -> None:
    page = signed_in(open_page(), shared.url, shared_key)
    assert page.context.cookies()[0]["httpOnly"]
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{shared.url}/login")
    assert page.context.cookies() == []
    page.goto(f"{shared.url}/ada")
    assert "/login" in page.url


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_kind_of_page_is_readable_on_a_small_screen(
    open_page: Callable[..., Page], shared_key: str, filled: dict[str, str], scheme: str
) -> None:
    """No page is wider than the screen, words stand out from the ground, and the keyboard gets in first."""
    page = signed_in(
        open_page(color_scheme=scheme, viewport={"width": 400, "height": 800}), filled["project"], shared_key
    )
    for name in ("project", "run", "artifact"):
        page.goto(filled[name])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(CONTRASTS) >= 4.5, name
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1


CONTRASTS = """() => {
  const rgb = color => color.match(/[0-9.]+/g).map(Number);
  const light = color => rgb(color).slice(0, 3)
    .map(one => one / 255).map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = one => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (rgb(color)[3] !== 0) return color;
    }
  };
  const ratio = (one, two) => (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  return Math.min(...[...document.querySelectorAll("a, td, th, dt, dd, p, span, code, small, h1, h2")]
    .map(one => ratio(light(getComputedStyle(one).color), light(ground(one)))));
}"""
