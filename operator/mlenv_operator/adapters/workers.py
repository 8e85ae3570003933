"""Workers: each takes a key, looks at its job, and gives it back."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from mlenv_operator.kube.errors import ApiError, Conflict, LeaseLost
from mlenv_operator.runtime.workqueue import QueueShutDown

if TYPE_CHECKING:
    from mlenv_operator.adapters.metrics import Metrics
    from mlenv_operator.adapters.reconciler import Reconciler
    from mlenv_operator.core.world import JobKey
    from mlenv_operator.runtime.workqueue import WorkQueue

log = logging.getLogger(__name__)


async def work(queue: WorkQueue[JobKey], reconciler: Reconciler, metrics: Metrics) -> None:
    """Take keys, one after the other, until the queue is shut down."""
    with suppress(QueueShutDown):
        while True:
            key = await queue.get()
            try:
                metrics.reconciles.labels(await _look(queue, reconciler, key)).inc()
            finally:
                queue.done(key)
            # A look that asks the API server for nothing never waits: a cold start has one for every job.
            await asyncio.sleep(0)


async def _look(queue: WorkQueue[JobKey], reconciler: Reconciler, key: JobKey) -> str:
    """One key; what came of it. What fails is tried again later; only the loss of the Lease ends a worker."""
    try:
        result = await reconciler.reconcile(key)
        queue.forget(key)
    except LeaseLost:
        result = "lease lost"
        queue.add_failed(key)
    except Conflict:
        result = "conflict"
        queue.add_failed(key)
    except ApiError as error:
        result = "error"
        again = queue.add_failed(key, at_least_s=getattr(error, "retry_after_s", 0.0))
        log.warning("%s/%s: %s; again in %.0f s", *key, error, again)
    except Exception:
        result = "bug"
        log.exception("%s/%s: a mistake in this program; again in %.0f s", *key, queue.add_failed(key))
    return result
