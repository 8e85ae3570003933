"""The page for people: GET of what there is, and a form to sign in with an API key.

Everything is escaped where it is made (`web.markup`) and fenced by the headers here: no script, nothing from
elsewhere. What one may see is what the API gives to the same user; anything else is not found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from mlenv_local.wandb_server.artifacts import expiry
from mlenv_local.wandb_server.errors import Forbidden, NotFound, ServerError, TooLarge, Unauthenticated
from mlenv_local.wandb_server.web import (
    artifact_pages,
    frame,
    projects_page,
    run_page,
    sessions,
    sign_in,
    urls,
    version_page,
)
from mlenv_local.wandb_server.web.viewing import View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from mlenv_local.wandb_server.context import Services

    Endpoint = Callable[[Request], Awaitable[Response]]

ORDER = 100
"""Behind all others: names of users stand where they have their words."""
LARGEST_FORM = 8192
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def shows(make: Callable[..., str]) -> Endpoint:
    """An endpoint that shows a page, made from a View and the names in the route."""

    async def endpoint(request: Request) -> Response:
        services: Services = request.app.state.services
        try:
            return _html(await services.blocking(_made, services, request, make))
        except Unauthenticated:
            return RedirectResponse(f"{urls.SIGN_IN}?next={quote(_asked(request))}", 303, HEADERS)
        except ServerError as error:
            return _problem(error)

    return endpoint


def _made(services: Services, request: Request, make: Callable[..., str]) -> str:
    cookie, query = request.cookies.get(sessions.COOKIE, ""), request.query_params
    expiry.expire(services.store)
    with services.store.read() as db:
        user = sessions.user(db, services.signer, cookie)
        crashed_after, number = services.settings.crashed_after, _number(query.get("page", "1"))
        view = View(db, user, services.blobs, crashed_after, number, query.get("charts") == "all")
        names = {name: value for name, value in request.path_params.items() if name != "rest"}
        if "rest" in request.path_params:
            names["rest"] = _rest(request)
        return make(view, **names)


def _asked(request: Request) -> str:
    """Path and query as they were sent."""
    query = request.scope["query_string"].decode("latin-1")
    return str(request.scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 6 or int(text) < 1:
        raise NotFound(f"There is no page {text!r}: pages are counted from 1.")
    return int(text)


def _rest(request: Request) -> list[str]:
    """The names behind `artifacts`; the client writes a slash in a type's name as it is."""
    names = urls.parts(request.scope["raw_path"])[3:]
    return names if len(names) <= 3 else ["/".join(names[:-2]), *names[-2:]]


def _artifacts(view: View, entity: str, project: str, rest: list[str]) -> str:
    """A type, a collection or a version; a collection's name is its project's only one, whatever its type."""
    if len(rest) <= 1:
        return artifact_pages.of_project(view, entity, project, *rest)
    if len(rest) == 2:
        return artifact_pages.of_collection(view, entity, project, rest[1])
    return version_page.one_version(view, entity, project, *rest[1:])


async def selected(request: Request) -> Response:
    """The client's addresses of links: `selectionPath` is entity/project/collection."""
    names = request.query_params.get("selectionPath", "").split("/")
    if len(names) != 3 or not all(names):  # an empty name would lead to another host
        return _problem(NotFound("The address has no selectionPath entity/project/collection."))
    version = request.query_params.get("version") or "latest"
    where = urls.path(names[0], names[1], "artifacts", "-", names[2], version)
    return RedirectResponse(where, 303, HEADERS)


async def form(request: Request) -> Response:
    """GET shows the form, POST takes the key and sets the cookie."""
    services: Services = request.app.state.services
    if request.method != "POST":
        return _html(sign_in.form(request.query_params.get("next", "/")))
    given: dict[str, str] = {}
    try:
        given = await _form(request)
        token = await services.blocking(_begin, services, given.get("key", "").strip())
    except ServerError as error:
        return _html(sign_in.form(given.get("next", "/"), str(error)), error.status)
    answer = RedirectResponse(urls.after_sign_in(given.get("next", "/")), 303, HEADERS)
    _set_cookie(answer, services, request, token, sessions.LIFETIME)
    return answer


async def leave(request: Request) -> Response:
    """Forget the cookie; it is the browser's only copy, and ends by itself otherwise."""
    services: Services = request.app.state.services
    try:
        _same_origin(request)
    except ServerError as error:
        return _problem(error)
    answer = RedirectResponse(urls.SIGN_IN, 303, HEADERS)
    _set_cookie(answer, services, request, "", 0)
    return answer


def _begin(services: Services, key: str) -> str:
    with services.store.read() as db:
        return sessions.begin(db, services.signer, key)


def _set_cookie(answer: Response, services: Services, request: Request, value: str, seconds: int) -> None:
    secure = services.base_url(request).startswith("https:")
    answer.set_cookie(
        sessions.COOKIE, value, max_age=seconds, httponly=True, samesite="strict", secure=secure, path="/"
    )


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form that was sent from a page of this server."""
    _same_origin(request)
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > LARGEST_FORM:
            raise TooLarge(f"The form has more than {LARGEST_FORM} bytes.")
    fields = parse_qs(received.decode("utf-8", "replace"), max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}


def _same_origin(request: Request) -> None:
    """Forbidden if another site's page sent the form: it would sign somebody in as somebody else."""
    origin = request.headers.get("origin")
    hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")}
    if origin is not None and urlsplit(origin).netloc not in hosts - {None}:
        raise Forbidden("The form was sent by a page of another site.")


def _html(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status, HEADERS)


def _problem(error: ServerError) -> Response:
    heading = "Not found" if error.status == 404 else "Not possible"
    return _html(frame.problem(heading, str(error)), error.status)


async def style(_request: Request) -> Response:
    """The only style sheet."""
    headers = {**HEADERS, "Cache-Control": "max-age=300"}
    return FileResponse(sign_in.STYLE_FILE, media_type="text/css", headers=headers)


_PROJECT = "/{entity}/{project}"
ROUTES = [
    Route(urls.STYLE, style, methods=["GET"]),
    Route(urls.SIGN_IN, form, methods=["GET", "POST"]),
    Route(urls.SIGN_OUT, leave, methods=["POST"]),
    Route("/orgs/{organization}/registry/{registry}", selected, methods=["GET"]),
    Route("/{entity}/registry/model", selected, methods=["GET"]),
    Route("/", shows(projects_page.home), methods=["GET"]),
    Route("/{entity}", shows(projects_page.of_entity), methods=["GET"]),
    Route(_PROJECT, shows(projects_page.project_runs), methods=["GET"]),
    Route(f"{_PROJECT}/runs", shows(projects_page.project_runs), methods=["GET"]),
    Route(f"{_PROJECT}/runs/{{name}}", shows(run_page.one_run), methods=["GET"]),
    Route(f"{_PROJECT}/artifacts", shows(artifact_pages.of_project), methods=["GET"]),
    Route(f"{_PROJECT}/artifacts/{{rest:path}}", shows(_artifacts), methods=["GET"]),
]
