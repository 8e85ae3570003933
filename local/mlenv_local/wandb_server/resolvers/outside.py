"""Projects and runs as the rest of the server shows them, for what hangs on them here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.wandb_server import projects, runs
from mlenv_local.wandb_server.resolvers.projects import project_view
from mlenv_local.wandb_server.resolvers.runs import run_view

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.context import Context, Raw


def project(db: sqlite3.Connection, context: Context, row: int) -> Raw:
    """A project by its row; NotFound or Forbidden if the user must not see it."""
    return project_view(projects.by_id(db, context.user, row))


def run(db: sqlite3.Connection, context: Context, row: int) -> Raw:
    """A run by its row."""
    return run_view(runs.by_id(db, context.user, row), context)
