"""Answers about costs as JSON, CSV and Parquet: exact nanodollars, nothing is rounded here."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final

import orjson

from mlenv_operator.cost.money import format_dollars
from mlenv_operator.ledger.calendar import show_month
from mlenv_operator.ledger.questions import show_time

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlenv_operator.ledger.asking import Costs
    from mlenv_operator.ledger.explaining import Line
    from mlenv_operator.ledger.ledger import JobCost
    from mlenv_operator.ledger.questions import Page, Question
    from mlenv_operator.ledger.rollups import Amounts

VERSION: Final = "v1"
NUMBERS: Final = ("cost_nanos", "list_cost_nanos", "gpu_micros", "held_micros")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]
"""Names of columns, and rows."""


def amounts(of: Amounts) -> dict[str, str]:
    """As text: a number beyond 2^53 (9 million dollars) does not survive every JSON reader."""
    return {
        "costNanos": str(of.cost),
        "listCostNanos": str(of.list_cost),
        "gpuMicros": str(of.gpu_micros),
        "heldMicros": str(of.held),
    }


def costs(question: Question, answer: Costs, namespaces: Collection[str] | None) -> dict[str, Any]:
    """An answer to a question; `namespaces` are those that it is about, None: all."""
    after = question.page.offset + len(answer.groups)
    return {
        "kind": "Costs",
        "version": VERSION,
        "by": question.by,
        "since": show_time(question.since),
        "until": show_time(question.until),
        "billedMonth": None if question.month is None else show_month(question.month),
        "settledUntil": None if answer.settled_until is None else show_time(answer.settled_until),
        "namespaces": None if namespaces is None else sorted(namespaces),
        "groups": [
            {"key": dict(zip(question.by, key, strict=True)), **amounts(of)} for key, of in answer.groups
        ],
        "rest": {"groups": answer.count - len(answer.groups), **amounts(answer.rest)},
        "total": {"groups": answer.count, **amounts(answer.total)},
        "nextOffset": after if after < answer.count else None,
    }


def costs_table(question: Question, answer: Costs) -> Table:
    """The groups."""
    rows = [(*key, *_numbers(of)) for key, of in answer.groups]
    return (*question.by, *NUMBERS), rows


def job(namespace: str, name: str, uids: Sequence[str], cost: JobCost) -> dict[str, Any]:
    """A job's bill; `uids[0]` is the job, the others had the same name."""
    return {
        "kind": "JobCost",
        "version": VERSION,
        "namespace": namespace,
        "job": name,
        "uid": uids[0],
        "sameName": list(uids[1:]),
        "asOf": show_time(cost.as_of),
        "categories": [{"category": kind, **amounts(of)} for kind, of in cost.by_category.items()],
        "costNanos": str(cost.cost),
        "listCostNanos": str(cost.list_cost),
        "rateNanosPerHour": str(cost.rate),
        "unpricedMicros": str(cost.unpriced),
    }


def job_table(cost: JobCost) -> Table:
    """A job by category."""
    return ("category", *NUMBERS), [(kind, *_numbers(of)) for kind, of in cost.by_category.items()]


def explanation(
    namespace: str, name: str, uids: Sequence[str], lines: Sequence[Line], page: Page
) -> dict[str, Any]:
    """Charges of a job; there is one more page when this one is full."""
    return {
        "kind": "Explanation",
        "version": VERSION,
        "namespace": namespace,
        "job": name,
        "uid": uids[0],
        "sameName": list(uids[1:]),
        "lines": [_line(line) for line in lines],
        "nextOffset": page.offset + page.limit if len(lines) == page.limit else None,
    }


def _line(line: Line) -> dict[str, Any]:
    whose, price = line.attribution, line.price
    return {
        "pod": line.pod.name if line.pod else "",
        "podUid": line.pod.uid if line.pod else "",
        "node": line.node_name,
        "nodeUid": line.name.node_uid,
        "instanceType": line.instance_type,
        "hour": show_time(line.name.hour),
        "revision": line.name.revision,
        "row": line.name.n,
        "category": line.kind,
        "attempt": line.attempt,
        "intervals": [[show_time(begin), show_time(end)] for begin, end in line.intervals],
        "team": whose.team if whose else "",
        "model": whose.model if whose else "",
        "useCase": whose.use_case if whose else "",
        "user": whose.user if whose else "",
        "price": price
        and {
            "id": price.price_id,
            "listNanosPerHour": str(price.list_nano_per_hour),
            "effectiveNanosPerHour": str(price.effective_nano_per_hour),
            "row": price.body,
        },
        **amounts(line.amounts),
        "reason": line.reason,
        "bookedMonth": show_month(line.booked),
    }


def explanation_table(lines: Sequence[Line]) -> Table:
    """A row for each charge; intervals as begin/end, one after the other."""
    names = ("hour", "pod", "node", "instance_type", "category", "attempt", "intervals", "price_id")
    rows = [
        (
            show_time(line.name.hour), line.pod.name if line.pod else "", line.node_name, line.instance_type,
            line.kind, str(line.attempt),
            " ".join(f"{show_time(begin)}/{show_time(end)}" for begin, end in line.intervals),
            line.price.price_id if line.price else "", line.reason, str(line.name.revision),
            *_numbers(line.amounts),
        )
        for line in lines
    ]  # fmt: skip
    return (*names, "reason", "revision", *NUMBERS), rows


def _numbers(of: Amounts) -> tuple[int, int, int, int]:
    return of.cost, of.list_cost, of.gpu_micros, of.held


def render(format_: str, document: dict[str, Any], table: Table) -> bytes:
    """The body of an answer."""
    if format_ == "json":
        return orjson.dumps(document)
    return as_csv(table) if format_ == "csv" else as_parquet(table)


def as_csv(table: Table) -> bytes:
    """With a first line of names, and dollars beside the nanodollars, exact to the last digit."""
    names, rows = table
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    at = names.index("cost_nanos")
    writer.writerow((*names, "cost_usd"))
    for row in rows:
        words = (_harmless(one) if isinstance(one, str) else one for one in row)
        writer.writerow((*words, format_dollars(row[at])))
    return text.getvalue().encode()


def _harmless(text: str) -> str:
    """Users choose some of these words, and a spreadsheet would execute what begins like a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def as_parquet(table: Table) -> bytes:
    """Words as strings, numbers as 64-bit integers."""
    # Here, as it takes 40 MB and half a second: whoever never asks for Parquet does without.
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    names, rows = table
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    typed = {
        name: pa.array(column, pa.int64() if name in NUMBERS else pa.string())
        for name, column in zip(names, columns, strict=True)
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(typed), sink, compression="zstd")
    return sink.getvalue()
