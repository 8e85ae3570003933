"""Puts the books together: what feeds the ledger, what stores, and where it is noted what counters showed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlenv_operator.adapters.bookkeeper import Bookkeeper
from mlenv_operator.adapters.countermarks import ConfigMapMarks
from mlenv_operator.adapters.shown import Shown
from mlenv_operator.ledger.accountant import Accountant, Listener
from mlenv_operator.ledger.database import url_of
from mlenv_operator.ledger.exports import BothMarks
from mlenv_operator.ledger.ledger import marks_of, open_ledger
from mlenv_operator.ledger.settling import Rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_operator.adapters.pricebooks import Books
    from mlenv_operator.adapters.state import State
    from mlenv_operator.core.world import JobKey
    from mlenv_operator.kube.client import Client
    from mlenv_operator.settings import Settings


class Accounting(NamedTuple):
    """The two that work while a ledger is configured, each as a task of the leader."""

    accountant: Accountant
    bookkeeper: Bookkeeper


def build_accounting(
    settings: Settings, client: Client, state: State, look: Callable[[JobKey], None], books: Books
) -> Accounting:
    """Not yet running. A database that is away now may come later; a DSN that names none is a LedgerError."""
    url_of(settings.ledger_dsn)
    place = ConfigMapMarks(client, settings.namespace, f"{settings.lease_name}-counters")
    marks = BothMarks(place, marks_of(settings.ledger_dsn, settings.ledger_folder))
    rules = Rules(shares=settings.ledger_shares)
    accountant = Accountant(lambda: open_ledger(settings.ledger_dsn, books, rules), state.clock, marks)
    alone = settings.ledger_unheld == "idle"
    keeper = Bookkeeper(accountant, state, look, Shown(accountant.figures).of, alone=alone)
    accountant.listener = Listener(state.jobs.uids, keeper.opened, keeper.durable)
    state.caches.nodes.on_change(keeper.node_changed)
    state.caches.pods.on_change(keeper.pod_changed)
    return Accounting(accountant, keeper)
