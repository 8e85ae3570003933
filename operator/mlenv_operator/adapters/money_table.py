"""Every metric about money, in one table, for dashboards and alerts to rely on; see docs/metrics.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

JOB: Final = ("namespace", "trainingjob", "uid")
"""What a series of one job carries, and nothing else: the rest is on `trainingjob_info`."""
SPENT: Final = ("namespace", "team", "use_case", "instance_type", "capacity_type", "category")
MACHINE: Final = ("instance_type", "capacity_type")
OWNER: Final = ("team", "use_case")
OTHER: Final = "__other__"
"""Stands for all who have no series of their own."""
STATES: Final = ("off", "standby", "starting", "hidden", "shown")
"""Why this replica shows money, or does not."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric; the name of a counter is given without `_total`, as prometheus-client wants it."""

    name: str
    type: str
    text: str
    labels: tuple[str, ...] = ()


COST: Final = Row("trainingjob_cost_usd", "counter", "What pods of jobs cost, in US dollars.", SPENT)
LIST_COST: Final = Row("trainingjob_list_cost_usd", "counter", "The same at list prices.", SPENT)
GPU_SECONDS: Final = Row(
    "trainingjob_gpu_seconds", "counter", "GPU-seconds held by pods of jobs.", (*SPENT, "gpu_model")
)
MODEL_COST: Final = Row(
    "trainingjob_model_cost_usd", "counter", "What pods of jobs cost, by model.", ("team", "model")
)
NODE_COST: Final = Row(
    "trainingjob_node_cost_usd",
    "counter",
    "What nodes cost, allocated to pods of jobs or by what else became of them.",
    (*MACHINE, "category"),
)

INFO: Final = Row(
    "trainingjob_info",
    "gauge",
    "1; to whom the job belongs, and on what it runs.",
    (*JOB, "team", "use_case", "model", "user", "instance_type", "capacity_type", "queue"),
)
JOB_COST: Final = Row(
    "trainingjob_job_cost_usd", "gauge", "What the job cost so far; may be corrected downwards.", JOB
)
JOB_RATE: Final = Row(
    "trainingjob_cost_rate_usd_per_hour", "gauge", "What the job costs an hour, at this moment.", JOB
)
JOB_GPUS: Final = Row("trainingjob_gpus", "gauge", "GPUs that the job holds now.", JOB)
JOB_GPU_SECONDS: Final = Row(
    "trainingjob_job_gpu_seconds", "gauge", "GPU-seconds that the job held so far.", JOB
)
JOB_GOODPUT: Final = Row(
    "trainingjob_goodput_ratio", "gauge", "Productive of all GPU-seconds that the job held.", JOB
)
JOB_TELEMETRY: Final = Row(
    "trainingjob_step_telemetry_present",
    "gauge",
    "1 if the job tells what its steps take; 0: all time between init and drain counts as productive.",
    JOB,
)
JOB_START: Final = Row(
    "trainingjob_start_timestamp_seconds", "gauge", "When the job's first pod was scheduled.", JOB
)
JOB_UNPRICED: Final = Row(
    "trainingjob_unpriced",
    "gauge",
    "1 while something that the job holds or held has no price: its cost is more than is shown, or unknown.",
    JOB,
)
JOBS_HIDDEN: Final = Row(
    "trainingjob_jobs_hidden", "gauge", "Live jobs without series of their own, because there are too many."
)

MONTH_COST: Final = Row(
    "trainingjob_cost_month_to_date_usd",
    "gauge",
    "What pods of jobs cost in this month (UTC) so far; corrections may take it back.",
    OWNER,
)
BUDGET_LIMIT: Final = Row("trainingjob_budget_limit_usd", "gauge", "What a Budget allows in a month.", OWNER)
BUDGET_SPENT: Final = Row(
    "trainingjob_budget_spent_usd", "gauge", "What is spent of a Budget in this month so far.", OWNER
)
BUDGET_FORECAST: Final = Row(
    "trainingjob_budget_forecast_usd",
    "gauge",
    "What it comes to by the end of the month, if it goes on as in the last seven days.",
    OWNER,
)

STATE: Final = Row(
    "trainingjob_ledger_state", "gauge", "1 for what this replica does about money.", ("state",)
)
LAG: Final = Row("trainingjob_ledger_lag_seconds", "gauge", "Age of the oldest fact that is not stored.")
WAITING: Final = Row("trainingjob_ledger_waiting_facts", "gauge", "Facts that are not stored yet.")
FACTS: Final = Row("trainingjob_ledger_facts", "counter", "Facts, by what became of them.", ("result",))
COMMITS: Final = Row("trainingjob_ledger_commits", "counter", "Batches of facts that were stored.")
FAILURES: Final = Row("trainingjob_ledger_failures", "counter", "Times that the ledger could not be used.")
CLOSED: Final = Row("trainingjob_ledger_closed_node_hours", "counter", "Hours of nodes that were closed.")
HELD_BACK: Final = Row(
    "trainingjob_ledger_held_back_node_hours", "gauge", "Hours of nodes that wait for the end of a pod."
)
SHOWN_AT: Final = Row(
    "trainingjob_ledger_published_timestamp_seconds", "gauge", "Of which moment the money shown here is."
)
SETTLED: Final = Row(
    "trainingjob_ledger_settled_timestamp_seconds", "gauge", "Until when all hours of all nodes are closed."
)
OPEN_NODES: Final = Row("trainingjob_ledger_open_nodes", "gauge", "Nodes with an hour that is not closed.")
DUE: Final = Row(
    "trainingjob_ledger_corrections_due", "gauge", "Closed hours of nodes that have to be looked at again."
)
CORRECTIONS: Final = Row(
    "trainingjob_ledger_corrections", "counter", "Hours of nodes that were corrected.", ("reason",)
)
CLAMPED: Final = Row(
    "trainingjob_ledger_clamped_times", "counter", "Times that were moved, as they contradicted others."
)
IMBALANCE: Final = Row(
    "trainingjob_ledger_imbalance_usd", "gauge", "By how much sums differ that must be equal; always 0."
)
UNPRICED: Final = Row(
    "trainingjob_unpriced_node_seconds",
    "gauge",
    "Time of nodes of which nobody knows the price: its cost is unknown, and in no sum.",
    MACHINE,
)
OVERFLOW: Final = Row(
    "trainingjob_label_overflow_series",
    "gauge",
    "Series that were put together as __other__ when there were too many.",
    ("family",),
)

ROWS: Final = tuple(one for one in list(globals().values()) if isinstance(one, Row))
