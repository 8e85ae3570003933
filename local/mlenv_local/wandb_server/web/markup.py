"""HTML as values: a plain string is escaped, so nothing that a user named can become markup. Pure."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VOID = frozenset({"input", "link", "meta", "line"})


class Html(str):
    """Text that is markup already; only `tag` and `join` make it."""

    __slots__ = ()


Node: TypeAlias = "Html | str | int | float | None"
"""What can stand in a page: markup, or a value that is escaped; None is nothing."""


def text(node: Node) -> Html:
    """The node as markup."""
    if isinstance(node, Html):
        return node
    return Html("" if node is None else html.escape(str(node), quote=True))


def join(nodes: Iterable[Node], between: str = "") -> Html:
    """Nodes one after the other."""
    return Html(text(between).join(map(text, nodes)))


def tag(name: str, /, *children: Node, **attributes: Node) -> Html:
    """An element. A trailing _ of an attribute's name is dropped, others become -; None leaves it out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def link(href: str, *children: Node, **attributes: Node) -> Html:
    """A link to a page of ours or a signed URL; never to what a user gave as an address."""
    return tag("a", *children, href=href, **attributes)


def table(caption: str, headings: Sequence[Node], rows: Iterable[Sequence[Node]]) -> Html:
    """A table whose first cell of each row is its heading; a sentence instead if there are no rows."""
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    if not body:
        return tag("p", f"{caption}: none.", class_="none")
    head = tag("thead", tag("tr", *(tag("th", one, scope="col") for one in headings)))
    whole = tag("table", tag("caption", caption), head, tag("tbody", *body))
    return tag("div", whole, class_="wide", role="region", aria_label=caption, tabindex=0)


def facts(pairs: Iterable[tuple[str, Node]]) -> Html:
    """Names and values; a value that is None or empty is left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "")]
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in shown))


def section(heading: str, *children: Node) -> Html:
    """A part of a page under a heading."""
    return tag("section", tag("h2", heading), *children)
