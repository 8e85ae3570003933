"""Which runs of a project, and in which order: the public API's fields over rows of `runs`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import filters, runs
from mlenv_local.wandb_server.errors import Refused
from mlenv_local.wandb_server.filters import MISSING, Moment

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

FIELDS = {
    "name": "name",
    "display_name": "display_name",
    "displayName": "display_name",
    "description": "description",
    "notes": "notes",
    "group": "run_group",
    "jobType": "job_type",
    "job_type": "job_type",
    "commit": "commit_hash",
    "host": "host",
    "sweep": "sweep",
    "sweepName": "sweep",
    "username": "username",
    "user.username": "username",
    "exit_code": "exit_code",
}
MOMENTS = {
    "created_at": "created_ms",
    "createdAt": "created_ms",
    "heartbeat_at": "heartbeat_ms",
    "heartbeatAt": "heartbeat_ms",
    "updated_at": "heartbeat_ms",
    "updatedAt": "heartbeat_ms",
}


class Fields:
    """The fields of one run; config and summary are parsed only if asked for."""

    def __init__(self, row: sqlite3.Row, crashed_after: float) -> None:
        self.row = row
        self._crashed_after = crashed_after
        self._parsed: dict[str, Any] = {}

    def __call__(self, path: str) -> Any:
        """The value of a field, MISSING if the run has none; Refused for a field that no run has."""
        if path == "state":
            return runs.state(self.row, self._crashed_after)
        if path == "tags":
            return json.loads(self.row["tags"])
        if path in FIELDS:
            value = self.row[FIELDS[path]]
            return MISSING if value is None else value
        if path in MOMENTS:
            return Moment(self.row[MOMENTS[path]])
        return self._nested(path)

    def _nested(self, path: str) -> Any:
        head, _, rest = path.partition(".")
        if head == "config" and rest:
            return self._config(rest)
        if head in ("summary_metrics", "summaryMetrics") and rest:
            return filters.dig(self._json("summary"), rest)
        known = ", ".join(sorted({*FIELDS, *MOMENTS, "state", "tags"}))
        raise Refused(
            f"Runs are not filtered or sorted by {path!r} on this server, but by {known}, config.* and"
            " summary_metrics.*"
        )

    def _config(self, path: str) -> Any:
        """A config value with or without `.value`, which the stored form has around each."""
        config = {
            key: value["value"] if isinstance(value, dict) and "value" in value else value
            for key, value in self._json("config").items()
        }
        found = filters.dig(config, path)
        if found is MISSING and (bare := path.removesuffix(".value")) != path:
            return filters.dig(config, bare)
        if found is MISSING and ".value." in path:
            return filters.dig(config, path.replace(".value.", ".", 1))
        return found

    def _json(self, column: str) -> dict[str, Any]:
        if column not in self._parsed:
            self._parsed[column] = json.loads(self.row[column])
        parsed: dict[str, Any] = self._parsed[column]
        return parsed


def select(
    rows: Sequence[sqlite3.Row], condition: str | None, order: str | None, crashed_after: float
) -> list[sqlite3.Row]:
    """The runs that fulfil a condition (JSON), sorted; the oldest first unless said otherwise."""
    wanted = _condition(condition)
    chosen = [fields for row in rows if filters.matches(wanted, fields := Fields(row, crashed_after))]
    for path, downwards in reversed(filters.orders(order)):
        chosen.sort(key=_by(path), reverse=downwards)
    return [fields.row for fields in chosen]


def _by(path: str) -> Callable[[Fields], Any]:
    return lambda fields: filters.rank(fields(path))


def _condition(text: str | None) -> dict[str, Any]:
    try:
        condition = json.loads(text or "{}")
    except ValueError as error:
        raise Refused(f"The filter is no JSON: {error}") from error
    if not isinstance(condition, dict):
        raise Refused("The filter is no JSON object.")
    return condition
