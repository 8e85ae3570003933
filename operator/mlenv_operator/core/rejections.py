"""Remembers what the API server refused, and when to try it again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_operator.core.world import CoreSettings, Rejection

if TYPE_CHECKING:
    from datetime import datetime


def reject(
    reason: Reason,
    what: str,
    message: str,
    *,
    before: Rejection | None,
    now: datetime,
    settings: CoreSettings | None = None,
) -> Rejection:
    """The rejection of ``what``; ``before`` is the one remembered of the same job.

    Tried again soon, and ever later: a quota may have room again, and who made an object often makes just now
    what it lacks, or the rule that allows it, which a cluster obeys some seconds later.
    """
    settings = settings or CoreSettings()
    times = before.times + 1 if before is not None and before.reason is reason else 1
    wait = min(settings.rejection_retry_s, _first_s(reason, settings) * 2.0 ** min(times - 1, 30))
    return Rejection(reason, what, message, now + timedelta(seconds=wait), times)


def _first_s(reason: Reason, settings: CoreSettings) -> float:
    if reason is Reason.SERVICE_ACCOUNT_NOT_FOUND:
        return settings.account_retry_first_s  # whoever made the namespace just now has it made
    return settings.rejection_retry_first_s
