"""A burst in figures, and the figures in tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from crowd.machine import ELSEWHERE
from crowd.timeline import quantile, waits

if TYPE_CHECKING:
    from crowd.burst import Burst, Size

FLOOR = 25.0
"""Gangs a second that ours must create, on two cores with 1,000 jobs of 4 pods."""
SPOILED = 0.15
"""What the kernel takes for networking is less than this share of the machine."""
Figures = dict[str, Any]
_out = Console(highlight=False, soft_wrap=True)


def figures(burst: Burst, size: Size) -> Figures:
    """What a burst is summed up to."""
    line = burst.timeline
    return {
        "gangs_per_s": round(line.per_second("created"), 1),
        "running_per_s": round(line.per_second("running"), 1),
        **{name: value for what in _seen(burst) for name, value in waits(line, what).items()},
        "operator_cpu_s_per_job": round(burst.cpu_s() / size.jobs, 4),
        "operator_cpu_s_per_job_until_created": round(burst.cpu_s(until_created=True) / size.jobs, 4),
        "operator_rss_mb": round(burst.after.rss_mb, 1),
        "operator_peak_rss_mb": round(burst.after.peak_mb, 1),
        "api_writes_per_job": round(burst.bill.until_done, 2),
        "writes_until_created_per_job": round(burst.bill.until_created, 2),
        "watch_lag_p50_s": round(quantile(line.lags, 0.5), 2),
        "watch_lag_p99_s": round(quantile(line.lags, 0.99), 2),
        "cpu_share_elsewhere": burst.shares[ELSEWHERE],
        "jobs_complete": line.done - len(line.failed),
    }


def _seen(burst: Burst) -> tuple[str, ...]:
    return ("created", "running", "done") if burst.timeline.done else ("created", "running")


def tell(title: str, burst: Burst, size: Size) -> None:
    """Print what was measured of an operator."""
    told = figures(burst, size)
    _out.print(f"\n[bold]{title}[/]: a burst of {size.jobs} jobs of {size.pods} pods")
    table = Table("", "gangs/s", "p50 s", "p99 s", box=None, pad_edge=False)
    rates = {"created": "gangs_per_s", "running": "running_per_s"}
    for what in _seen(burst):
        rate = str(told.get(rates.get(what, ""), ""))
        table.add_row(f"submitted to {what}", rate, str(told[f"{what}_p50_s"]), str(told[f"{what}_p99_s"]))
    _out.print(table)
    late, latest = told["watch_lag_p50_s"], told["watch_lag_p99_s"]
    _out.print(f"A watch told of the created ones later by: p50 {late} s, p99 {latest} s")
    cpu, early = told["operator_cpu_s_per_job"], told["operator_cpu_s_per_job_until_created"]
    _out.print(f"CPU of the operator: {cpu * 1000:.1f} ms per job, {early * 1000:.1f} until all were created")
    _tell_shares(burst.shares)
    _out.print(f"Memory: {told['operator_rss_mb']} MB, {told['operator_peak_rss_mb']} at its peak")
    writes, first = told["api_writes_per_job"], told["writes_until_created_per_job"]
    _out.print(
        f"Writes: {writes} per job, {first} until created ({size.pods} pods + {first - size.pods:.2f})"
    )
    _out.print(f"  its own   {_listed(burst.bill.kinds)}")
    _out.print(f"  others'   {_listed(burst.bill.others)}")
    for job, message in list(burst.timeline.failed.items())[:5]:
        _out.print(f"[red]failed[/] {job}: {message}")


def tell_bare(told: Figures, shares: dict[str, float]) -> None:
    """Print the limit, and how near to it we came."""
    rate, running = told["bare_client_gangs_per_s"], told["bare_client_running_per_s"]
    _out.print(f"\n[bold]Bare client[/]: {rate} gangs/s created, {running} running")
    _tell_shares(shares)
    _out.print(f"Ratio of the gangs created a second to the bare client's: {told['ratio_to_bare_client']}\n")


def _tell_shares(shares: dict[str, float]) -> None:
    """Where the processors' time went until all gangs were created; what is not ours spoils the figures."""
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01)
    _out.print(f"The machine until then: {told}")
    if shares[ELSEWHERE] > SPOILED:
        _out.print(
            f"[yellow]{shares[ELSEWHERE]:.0%} of this machine's CPU time went elsewhere[/]: too busy to say"
        )


def _listed(counts: dict[str, float]) -> str:
    return ", ".join(f"{name} {count:g}" for name, count in counts.items())
