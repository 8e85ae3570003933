"""By which policy nodes are shared, hour by hour: who switches it changes no hour that has begun.

So a correction of an old hour shares it as it was shared when it was closed, whatever is set by then.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.cost.shares import GPU_DOMINANT, Policy, parse_policy
from mlenv_operator.ledger import remarks, schema

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mlenv_operator.cost.facts import Micros

DEFAULT: Final = "gpu-dominant"
"""Of ledgers that say nothing of it."""
_KEY: Final = "shares"


def policy_at(connection: Connection, moment: Micros) -> Policy:
    """The policy by which the hour of this moment is shared."""
    found = [name for hour, name in _told(connection) if hour <= moment // HOUR]
    return parse_policy(found[-1]) if found else GPU_DOMINANT


def choose(connection: Connection, name: str, now: Micros, *, new: bool) -> None:
    """Share by this policy from the next hour on; in a new ledger from its beginning on.

    Raises:
        ValueError: there is no such policy.
    """
    parse_policy(name)
    known = _told(connection)
    if name == (known[-1][1] if known else DEFAULT):
        return
    begins = 0 if new else max(now // HOUR, _last_closed(connection)) + 1
    # What was to begin later, and has not, never will.
    kept = [(hour, one) for hour, one in known if hour < begins]
    if name != (kept[-1][1] if kept else DEFAULT):
        kept.append((begins, name))
    remarks.put(connection, _KEY, json.dumps(kept))


def _told(connection: Connection) -> list[tuple[int, str]]:
    """Since which hour which policy, oldest first."""
    text = remarks.get(connection, _KEY)
    return [(int(hour), str(name)) for hour, name in json.loads(text)] if text else []


def _last_closed(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.max(schema.settlement.c.hour), 0))).scalar_one())
