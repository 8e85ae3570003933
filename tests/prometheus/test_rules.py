"""Recording rules and alerts, by promtool; and what Prometheus does with counters that are not as ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import scraper
import yaml
from scraper import ROOT, RULES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.prometheus
A = 'namespace="ml", team="ads", use_case="ctr", instance_type="p5", capacity_type="spot"'
JOB = 'namespace="ml", trainingjob="j", uid="u"'


def run(
    folder: Path,
    series: dict[str, str],
    at: str,
    expected: dict[str, dict[str, float]],
    *,
    interval: str = "1m",
    alerts: list[dict[str, Any]] | None = None,
) -> None:
    """Demand that each expression has exactly these values, by their labels as promtool writes them."""
    test = {
        "interval": interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": at,
                "exp_samples": [{"labels": labels, "value": value} for labels, value in values.items()],
            }
            for expression, values in expected.items()
        ],
        "alert_rule_test": alerts or [],
    }
    path = folder / "test.yaml"
    # Unless told, promtool takes groups in any order, and those that build on others lag by a minute or not.
    groups = [group["name"] for group in yaml.safe_load(RULES.read_text())["groups"]]
    about = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "group_eval_order": groups}
    path.write_text(yaml.safe_dump({**about, "tests": [test]}))
    done = scraper.promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules() -> None:
    done = scraper.promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    anchors = {one.lower() for one in re.findall(r"^#+ (\w+)$", page, re.MULTILINE)}
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert {"summary", "description", "runbook_url"} == rule["annotations"].keys()
        where, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (where, anchor) == ("docs/metrics.md", name.lower())
        assert anchor in anchors, f"docs/metrics.md has no heading for {name}"


@dataclass(frozen=True)
class Case:
    alert: str
    series: dict[str, str]
    at: str
    fires: str
    """Its labels but name, state and severity; empty: it does not fire."""


def state(word: str, values: str = "1x60", pod: str = "a") -> dict[str, str]:
    words = ("off", "standby", "starting", "hidden", "shown")
    return {
        f'trainingjob_ledger_state{{state="{one}", pod="{pod}"}}': values if one == word else "0x60"
        for one in words
    }


def spending(rate: str) -> dict[str, str]:
    return {
        f"trainingjob_cost_rate_usd_per_hour{{{JOB}}}": rate,
        f'trainingjob_info{{{JOB}, team="ads", use_case="ctr"}}': "1x2000",
        # 60 dollars an hour, by the counter, for more than a day.
        f'trainingjob_cost_usd_total{{{A}, category="productive"}}': "0+1x2000",
    }


def goodput(good: str) -> dict[str, str]:
    return {
        **spending("60x2000"),
        f'trainingjob_gpu_seconds_total{{{A}, gpu_model="H100", category="productive"}}': good,
        f'trainingjob_gpu_seconds_total{{{A}, gpu_model="H100", category="data_wait"}}': "0+480x2000",
    }


def budget(spent: str, forecast: str, limit: str = "1000x120") -> dict[str, str]:
    """One of a team, as a leader and the one before it show it; and one that is never touched."""
    figures = {"spent": spent, "forecast": forecast, "limit": limit}
    whole = {f'trainingjob_budget_{name}_usd{{{ADS}, pod="a"}}': values for name, values in figures.items()}
    gone = {f'trainingjob_budget_{name}_usd{{{ADS}, pod="b"}}': "7x9 stale" for name in figures}
    calm = {"spent": "7x120", "forecast": "7x120", "limit": "8x120"}
    rest = {f"trainingjob_budget_{name}_usd{{{FEED}}}": values for name, values in calm.items()}
    return {**whole, **gone, **rest}


ADS = 'team="ads", use_case="__all__"'
FEED = 'team="feed", use_case="ctr"'
LAG = 'trainingjob_ledger_lag_seconds{pod="a", instance="x"}'
MISSING = 'trainingjob_unpriced_node_seconds{instance_type="p5", capacity_type="spot"}'
CORRECTED = 'trainingjob_ledger_corrections_total{reason="pod"}'
OVERFLOW = 'trainingjob_label_overflow_series{family="models"}'
PRICES = 'instance_type="p5", capacity_type="spot"'
CASES = [
    Case("MLEnvPriceMissing", {MISSING: "0+60x60"}, "30m", PRICES),
    Case("MLEnvPriceMissing", {MISSING: "0x60"}, "30m", ""),
    Case("MLEnvPriceMissing", {MISSING: "60x8 _x60"}, "30m", ""),
    Case("MLEnvLedgerBehind", {LAG: "0+60x60"}, "15m", " "),
    Case("MLEnvLedgerBehind", {LAG: "200x60"}, "15m", ""),
    Case("MLEnvLedgerNotClosing", {"trainingjob_ledger_settled_timestamp_seconds": "0x700"}, "11h", " "),
    Case("MLEnvLedgerNotClosing", {"trainingjob_ledger_settled_timestamp_seconds": "0+60x700"}, "11h", ""),
    Case("MLEnvLedgerAway", state("hidden"), "15m", " "),
    Case("MLEnvLedgerAway", {**state("standby"), **state("standby", pod="b")}, "15m", " "),
    Case("MLEnvLedgerAway", {**state("standby"), **state("shown", pod="b")}, "15m", ""),
    Case("MLEnvLedgerAway", state("off"), "15m", ""),
    Case("MLEnvMoneyStale", {"trainingjob_ledger_published_timestamp_seconds": "0x60"}, "20m", " "),
    Case("MLEnvMoneyStale", {"trainingjob_ledger_published_timestamp_seconds": "0+60x60"}, "20m", ""),
    Case("MLEnvLedgerImbalance", {"trainingjob_ledger_imbalance_usd": "0x5 0.000000001x9"}, "10m", " "),
    Case("MLEnvLedgerImbalance", {"trainingjob_ledger_imbalance_usd": "0x60"}, "10m", ""),
    Case("MLEnvLedgerCorrections", {CORRECTED: "0+50x120"}, "90m", 'reason="pod"'),
    Case("MLEnvLedgerCorrections", {CORRECTED: "0+1x120"}, "90m", ""),
    Case("MLEnvSpendRate", spending("60x1399 700x300"), "24h30m", 'team="ads"'),
    Case("MLEnvSpendRate", spending("60x1399 150x300"), "24h30m", ""),
    Case("MLEnvBudgetBurn", budget("10x120", "1001x120"), "90m", ADS),
    Case("MLEnvBudgetBurn", budget("10x120", "1000x120"), "90m", ""),
    Case("MLEnvBudgetBurn", budget("10x120", "1001x20 990x100"), "90m", ""),
    Case("MLEnvBudgetBurn", budget("1000x120", "1100x120"), "90m", ""),
    Case("MLEnvBudgetExceeded", budget("1000x120", "1100x120"), "20m", ADS),
    Case("MLEnvBudgetExceeded", budget("999.99x120", "1100x120"), "20m", ""),
    Case("MLEnvNoGoodput", goodput("0+4x2000"), "3h", 'team="ads"'),
    Case("MLEnvNoGoodput", goodput("0+480x2000"), "3h", ""),
    Case("MLEnvSeriesOverflow", {OVERFLOW: "3x60"}, "15m", 'family="models"'),
    Case("MLEnvSeriesOverflow", {OVERFLOW: "0x60"}, "15m", ""),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires else 'rests'}")
def test_an_alert_fires_when_it_must_and_only_then(case: Case, tmp_path: Path) -> None:
    severity = alerts()[case.alert]["labels"]["severity"]
    labels = [
        f'alertname="{case.alert}"',
        'alertstate="firing"',
        f'severity="{severity}"',
        case.fires.strip(),
    ]
    name = f"ALERTS{{{', '.join(one for one in labels if one)}}}"
    expected = {name: 1.0} if case.fires else {}
    run(
        tmp_path, case.series, case.at, {f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}': expected}
    )


def test_every_alert_is_tested_both_ways() -> None:
    for fires in (True, False):
        assert {case.alert for case in CASES if bool(case.fires) == fires} == set(alerts())


def test_sentences_of_an_alert_have_their_values(tmp_path: Path) -> None:
    rule = alerts()["MLEnvPriceMissing"]["annotations"]
    filled = {
        "summary": "Nobody knows the price of p5 (spot).",
        "description": rule["description"].replace("{{ $value | humanizeDuration }}", "30m 0s"),
        "runbook_url": rule["runbook_url"],
    }
    labels = {"severity": "warning", "instance_type": "p5", "capacity_type": "spot"}
    wanted = {
        "eval_time": "30m",
        "alertname": "MLEnvPriceMissing",
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": filled}],
    }
    run(tmp_path, {MISSING: "0+60x60"}, "30m", {}, alerts=[wanted])


def counter(pod: str, values: str) -> dict[str, str]:
    return {f'trainingjob_cost_usd_total{{{A}, category="productive", pod="{pod}"}}': values}


HOURLY = "team_use_case:trainingjob_cost_usd:increase1h"


def test_a_change_of_leaders_loses_nothing(tmp_path: Path) -> None:
    series = {**counter("a", "1000+1x30 stale"), **counter("b", "_x31 1033+1x60")}
    run(tmp_path, series, "60m", {f"round({HOURLY})": {'{team="ads", use_case="ctr"}': 62}})


def test_without_the_rule_a_change_of_leaders_loses_what_came_between(tmp_path: Path) -> None:
    series = {**counter("a", "1000+1x30 stale"), **counter("b", "_x31 1100+1x60")}
    raw = "sum(increase(trainingjob_cost_usd_total[1h])) < bool 70"
    run(
        tmp_path, series, "60m", {raw: {"{}": 1}, f"{HOURLY} > bool 125": {'{team="ads", use_case="ctr"}': 1}}
    )


def test_a_counter_that_goes_back_is_a_phantom_fortune(tmp_path: Path) -> None:
    # Why a ledger that is older than what was shown shows nothing: the first is what would be.
    back = counter("a", "100000+1x29 100028+1x31")
    run(tmp_path, back, "60m", {"sum(increase(trainingjob_cost_usd_total[1h])) > bool 100000": {"{}": 1}})
    hidden = counter("a", "100000+1x29 stale _x10 100041+1x20")
    run(tmp_path, hidden, "60m", {f"{HOURLY} < bool 65": {'{team="ads", use_case="ctr"}': 1}})


def test_counters_of_single_jobs_lose_their_birth_and_long_lived_ones_do_not(tmp_path: Path) -> None:
    # Four jobs of three dollars each, as counters of their own, and as ours: one that is there from 0 on.
    single = {
        f'cost_total{{job="{name}"}}': f"_x{start} {values}"
        for name, start, values in (("a", 5, "1 2 3"), ("b", 12, "1 2 3"), ("c", 20, "1 2 3"), ("d", 30, "3"))
    }
    ours = counter("a", "0x5 1 2 3 3x4 4 5 6 6x5 7 8 9 9x7 12 12x40")
    run(
        tmp_path,
        {**single, **ours},
        "60m",
        {
            "sum(increase(cost_total[1h])) < bool 11.99": {"{}": 1},
            f"round({HOURLY}, 0.5)": {'{team="ads", use_case="ctr"}': 12},
        },
    )


def test_a_label_that_changes_moves_no_money(tmp_path: Path) -> None:
    # The job's team changed at minute 30. Attribution stands in the counter, and is not joined at query time.
    before = 'namespace="ml", team="ads", use_case="ctr", instance_type="p5", capacity_type="spot"'
    after = before.replace("ads", "feed")
    series = {
        f'trainingjob_cost_usd_total{{{before}, category="productive"}}': "0+1x30 30x40",
        f'trainingjob_cost_usd_total{{{after}, category="productive"}}': "0x29 0+1x40",
    }
    shares = {'{team="ads", use_case="ctr"}': 30, '{team="feed", use_case="ctr"}': 30}
    run(tmp_path, series, "60m", {f"round({HOURLY})": shares})
