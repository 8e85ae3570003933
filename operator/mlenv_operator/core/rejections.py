"""Remembers what the API server refused, and when to try it again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mlenv_api.conditions import Reason
from mlenv_operator.core.world import CoreSettings, Rejection

if TYPE_CHECKING:
    from datetime import datetime


_SOON: Final = frozenset({Reason.QUOTA_EXCEEDED, Reason.NAME_CONFLICT})


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

    A full quota may have room again soon, and what has our name may be on its way out, so that is tried again
    at 10, 20, 40 … s; a rule stands until somebody changes it.
    """
    settings = settings or CoreSettings()
    times = before.times + 1 if before is not None and before.reason is reason else 1
    wait = settings.rejection_retry_s
    if reason in _SOON:
        wait = min(wait, settings.quota_retry_first_s * 2.0 ** min(times - 1, 30))
    return Rejection(reason, what, message, now + timedelta(seconds=wait), times)
