"""The page of one run: what it is, what it logged, its files, its output, and the artifacts on both sides."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import console, lines, runs
from mlenv_local.wandb_server.artifacts import lineage
from mlenv_local.wandb_server.web import charts, frame, urls
from mlenv_local.wandb_server.web.markup import Html, Node, facts, link, section, table, tag
from mlenv_local.wandb_server.web.projects_page import last_step
from mlenv_local.wandb_server.web.viewing import above, listing, parsed, version_link

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from mlenv_local.wandb_server.web.viewing import View

CHARTS, POINTS, LINES, FILES = 24, 200, 200, 500
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def one_run(view: View, entity: str, project: str, name: str) -> str:
    """Everything about a run."""
    row = runs.by_path(view.db, view.user, entity, project, name)
    summary = plain_summary(row["summary"])
    return view.page(
        row["display_name"] or row["name"],
        _about(view, row),
        section("Metrics", *_charts(view, row)),
        section("Summary", table("Summary", ("Name", "Value"), frame.flat(summary))),
        section("Config", table("Config", ("Name", "Value"), frame.flat(plain_config(row["config"])))),
        section("Artifacts that it used", _versions(view, lineage.inputs(view.db, row["id"]), "None.")),
        section("Artifacts that it logged", _versions(view, lineage.outputs(view.db, row["id"]), "None.")),
        section("Files", _files(view, row["id"])),
        section("Console output", _console(lines.tail(view.db, row["id"], "output", LINES))),
        crumbs=above(row),
    )


def _about(view: View, row: sqlite3.Row) -> Html:
    return facts(
        [
            ("State", frame.state(runs.state(row, view.crashed_after))),
            ("Run", tag("code", row["name"])),
            ("Group", row["run_group"]),
            ("Job type", row["job_type"]),
            ("Tags", frame.labels(json.loads(row["tags"]))),
            ("User", row["username"]),
            ("Started", frame.moment(row["created_ms"])),
            ("Last heard of", frame.moment(row["heartbeat_ms"])),
            ("Duration", frame.duration(row["heartbeat_ms"] - row["created_ms"])),
            ("Last step", last_step(view, row["id"])),
            ("Exit code", row["exit_code"]),
            ("Program", row["program"]),
            ("Commit", row["commit_hash"]),
            ("Host", row["host"]),
            ("Notes", row["notes"]),
        ]
    )


def plain_config(text: str) -> dict[str, Any]:
    """The config as the user gave it: without what the client keeps there, and without the wrapping."""
    return {
        key: one["value"] if isinstance(one, dict) and "value" in one else one
        for key, one in parsed(text).items()
        if key != "_wandb"
    }


def plain_summary(text: str) -> dict[str, Any]:
    """The summary by name, what the client adds by itself last."""
    named = sorted(parsed(text).items(), key=lambda pair: (pair[0].startswith("_"), pair[0]))
    return {key: one for key, one in named if key != "_wandb"}


def _charts(view: View, row: sqlite3.Row) -> list[Node]:
    counted = parsed(row["history_keys"])
    names = sorted(key for key, types in counted.items() if "number" in types and not key.startswith("_"))
    shown = names if view.everything else names[:CHARTS]
    history = lines.steps(view.db, row["id"], 0, 1 << 62, -1)
    series = [(name, points(history, name)) for name in shown]
    figures = [charts.chart(name, found) for name, found in series if found]
    if not figures:
        return [tag("p", "No numbers logged.", class_="none")]
    rest = len(names) - len(shown)
    more = link(f"{urls.run(row)}?charts=all", f"Show {rest} more metrics") if rest else None
    return [tag("div", *figures, class_="charts"), tag("p", more) if more else None]


def points(history: Sequence[str], name: str) -> list[charts.Point]:
    """Steps and values of one metric, at most so many; what is no finite number is left out."""
    # Most rows don't have a sparse metric, and are not parsed for it.
    written = f"{json.dumps(name)}:", f"{json.dumps(name, ensure_ascii=False)}:"
    rows = [line for line in history if written[0] in line or written[1] in line]
    found = []
    for row in map(lines.parse, lines.evenly(rows, POINTS)):
        step, value = charts.number(row.get("_step")), charts.number(row.get(name))
        if step is not None and value is not None:
            found.append((step, value))
    return found


def _versions(view: View, rows: Iterable[sqlite3.Row], empty: str) -> Html:
    return listing([version_link(view, row) for row in rows], empty)


def _files(view: View, run: int) -> Node:
    prefix = f"run/{run}/"
    contents = view.blobs.slots(view.db, prefix)
    rows = [
        (view.file(one.sha256, one.key.removeprefix(prefix)), frame.size(one.size))
        for one in contents[:FILES]
    ]
    caption = "Files" if len(contents) <= FILES else f"The first {FILES} of {len(contents)} files"
    return table(caption, ("File", "Size"), rows)


def _console(tail: list[tuple[int, str]]) -> Html:
    if not tail:
        return tag("p", "Nothing printed.", class_="none")
    shown = "\n".join(_ESCAPES.sub("", console.parse(line).text) for _, line in tail)
    return tag("pre", shown, tabindex=0, role="region", aria_label=f"The last {len(tail)} lines")
