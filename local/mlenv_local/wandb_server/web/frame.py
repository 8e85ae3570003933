"""What all pages have in common: the frame, the way back, moments and sizes as people read them. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server.clock import iso
from mlenv_local.wandb_server.web import urls
from mlenv_local.wandb_server.web.markup import Html, Node, join, link, tag, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PER_PAGE = 50
Crumb = tuple[str, str]
"""The name of a page above this one, and its path."""


def page(title: str, *body: Node, crumbs: Sequence[Crumb] = (), user: str = "") -> str:
    """A whole document; `crumbs` lead from the first page to this one."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · W&B on this machine"),
        tag("link", rel="stylesheet", href=urls.STYLE),
    )
    main = tag("main", tag("h1", title), *body, id="main")
    skip = link("#main", "Skip to content", class_="skip")
    whole = tag("html", head, tag("body", skip, _header(crumbs, title, user), main), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def problem(heading: str, sentence: str) -> str:
    """What is shown instead of a page; no more than the sentence, and a way on."""
    return page(heading, tag("p", sentence), tag("p", link("/", "To your projects")))


def _header(crumbs: Sequence[Crumb], title: str, user: str) -> Html:
    steps = [tag("li", link(path, name)) for name, path in crumbs]
    here = [tag("li", tag("span", title, aria_current="page"))] if crumbs else []
    nav = tag("nav", tag("ol", *steps, *here), aria_label="Where you are") if user else None
    leave = tag("form", tag("button", "Sign out"), method="post", action=urls.SIGN_OUT)
    who = tag("div", tag("span", f"Signed in as {user}"), leave, class_="who") if user else None
    return tag("header", link("/", "W&B on this machine", class_="home"), nav, who)


def moment(milliseconds: int | None) -> Html | None:
    """A time in UTC."""
    if milliseconds is None:
        return None
    stamp = iso(milliseconds)
    return tag("time", stamp.replace("T", " ").replace("Z", " UTC"), datetime=stamp)


def counted(number: int, what: str) -> str:
    """As 1 file or 2 files."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(milliseconds: int) -> str:
    """As 1 h 2 min or 3 s."""
    seconds = max(0, milliseconds) // 1000
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min {seconds % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Bytes, in the unit that suits."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def state(word: str) -> Html:
    """A run's state, told apart by colour and by its word."""
    return tag("span", word, class_=f"state {word}")


def labels(names: Sequence[str]) -> Html:
    """Aliases or tags."""
    return join((tag("span", name, class_="label") for name in names), " ")


def value(content: Any) -> Node:
    """A value of a config, a summary or metadata, as JSON has it; strings as they are."""
    if isinstance(content, bool | None):
        return json.dumps(content)
    if isinstance(content, int | float):
        return f"{content:.10g}" if isinstance(content, float) else str(content)
    return tag("code", content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))


def flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Node]]:
    """Names with dots for what is nested, and values to show."""
    for name, one in content.items():
        if isinstance(one, dict) and one:
            yield from flat(one, f"{above}{name}.")
        else:
            yield f"{above}{name}", value(one)


def pager(path: str, number: int, total: int, what: str, per_page: int = PER_PAGE) -> Html:
    """Links to the pages before and after this one (counted from 1); nothing if one page holds all."""
    last = max(1, -(-total // per_page))
    if last == 1:
        return text(None)
    newer = link(f"{path}?page={number - 1}", "Previous page", rel="prev") if number > 1 else None
    older = link(f"{path}?page={number + 1}", "Next page", rel="next") if number < last else None
    told = tag("span", f"Page {number} of {last}, {total} {what}")
    return tag("nav", newer, told, older, class_="pager", aria_label=f"Pages of {what}")
