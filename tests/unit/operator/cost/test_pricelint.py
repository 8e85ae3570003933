"""Every trap of price lists is found, by the one change that makes a good list fall into it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from mlenv_operator.adapters.pricefiles import (
    SHIPPED,
    lint_with_shipped,
    shipped_hardware,
    shipped_rows,
    shipped_sheets,
)
from mlenv_operator.cost.hardware import parse_hardware
from mlenv_operator.cost.pricefile import COLUMNS, Finding, Severity, format_sheet, parse_sheet
from mlenv_operator.lint_prices import main

Cells = dict[str, str]


def cells(type_: str, paid: str, capacity: str = "on-demand", **changes: str) -> Cells:
    made = {
        "provider": "aws",
        "region": "us-east-1",
        "zone": "",
        "instance_type": type_,
        "capacity_type": capacity,
        "reservation": "",
        "from": "2026-07-20",
        "to": "",
        "list_usd_per_hour": "",
        "effective_usd_per_hour": paid,
        "source": "a list",
        "source_date": "2026-07-20",
    }
    return made | changes


GOOD = (
    cells("g5.xlarge", "1.006"),
    cells("g5.12xlarge", "5.672"),
    cells("g5.48xlarge", "16.288"),
    cells("p5.48xlarge", "55.04"),
    cells("p5.48xlarge", "21.5", "spot", list_usd_per_hour="55.04"),
    cells("p5e.48xlarge", "39.80", "capacity-block", reservation="cb-1"),
)


def text(rows: tuple[Cells, ...]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def found(*rows: Cells) -> list[Finding]:
    return list(lint_with_shipped(parse_sheet(text(rows), "list.csv")))


def mutated(which: int, **changes: str) -> list[Finding]:
    return found(*(row | changes if at == which else row for at, row in enumerate(GOOD)))


def test_a_good_list_has_no_findings() -> None:
    assert found(*GOOD) == []


TRAPS = [
    (3, {"effective_usd_per_hour": ""}, "blank", Severity.ERROR),
    (3, {"effective_usd_per_hour": "  "}, "blank", Severity.ERROR),
    (3, {"effective_usd_per_hour": "0"}, "zero", Severity.ERROR),
    (3, {"effective_usd_per_hour": "0.000"}, "zero", Severity.ERROR),
    (3, {"list_usd_per_hour": "0"}, "zero", Severity.ERROR),
    (3, {"effective_usd_per_hour": "NaN"}, "nan", Severity.ERROR),
    (3, {"effective_usd_per_hour": "inf"}, "nan", Severity.ERROR),
    (3, {"effective_usd_per_hour": "-55.04"}, "number", Severity.ERROR),
    (3, {"effective_usd_per_hour": "5.5e1"}, "number", Severity.ERROR),
    (3, {"effective_usd_per_hour": "700.0"}, "sentinel", Severity.ERROR),
    (4, {"list_usd_per_hour": "700"}, "sentinel", Severity.ERROR),
    (4, {"effective_usd_per_hour": "55.040000001"}, "spot-above", Severity.ERROR),
    (4, {"effective_usd_per_hour": "55.04"}, "spot-equal", Severity.WARNING),
    (4, {"effective_usd_per_hour": "5.504"}, "spot-tenth", Severity.WARNING),
    (2, {"effective_usd_per_hour": "130.304"}, "per-gpu", Severity.WARNING),
    (3, {"effective_usd_per_hour": "6.88"}, "host-only", Severity.ERROR),
    (5, {"reservation": ""}, "block", Severity.ERROR),
    (5, {"capacity_type": "capacity-blocks"}, "capacity-type", Severity.ERROR),
    (0, {"instance_type": "g5.48xlarge"}, "conflict", Severity.ERROR),
    (0, {"source": ""}, "source", Severity.ERROR),
    (0, {"source_date": ""}, "source", Severity.ERROR),
    (0, {"from": "soon"}, "time", Severity.ERROR),
    (0, {"to": "2026-07-20"}, "time", Severity.ERROR),
    (0, {"provider": ""}, "cells", Severity.ERROR),
    (0, {"instance_type": "g99.xlarge"}, "unknown-hardware", Severity.WARNING),
]


@pytest.mark.parametrize(("which", "changes", "rule", "severity"), TRAPS, ids=lambda one: str(one)[:40])
def test_a_trap_is_found(which: int, changes: Cells, rule: str, severity: Severity) -> None:
    hits = [one for one in mutated(which, **changes) if one.rule == rule]
    assert [one.severity for one in hits][:1] == [severity]
    assert f"list.csv:{which + 2}" in {one.where for one in hits}
    assert all(len(one.message.split(": ")) >= 2 for one in hits), "says which row, why, and what to do"


@pytest.mark.parametrize(
    ("which", "paid"),
    [(4, "55.039999999"), (4, "5.503999999"), (4, "5.504000001"), (3, "699.999999999"), (2, "24.144")],
)
def test_what_is_next_to_a_trap_is_not_in_it(which: int, paid: str) -> None:
    rules = {one.rule for one in mutated(which, effective_usd_per_hour=paid)}
    assert rules <= ({"spot-above"} if which == 3 else set())


def test_what_was_found_says_row_reason_and_remedy() -> None:
    [finding] = mutated(3, effective_usd_per_hour="")
    assert str(finding) == (
        "list.csv:5: error: aws us-east-1 p5.48xlarge on-demand: the price is blank: remove the row, or give"
        " its price [blank]"
    )


def test_prices_of_hosts_without_their_devices_are_found_as_a_whole_list() -> None:
    # As a catalog has them that keeps the price of devices elsewhere.
    hosts = {"a2-highgpu-8g": "5.91582", "a2-ultragpu-8g": "8.79698"}
    rows = [cells(name, paid, provider="gcp", region="us-central1") for name, paid in hosts.items()]
    assert [one.rule for one in found(*rows)] == ["host-only", "host-only"]


@pytest.mark.parametrize(
    ("paid", "expected"), [("3.2", ["jump"]), ("3.018", []), ("0.33", ["host-only", "jump"])]
)
def test_a_change_of_more_than_three_times_is_found(paid: str, expected: list[str]) -> None:
    before = parse_sheet(text((cells("g5.xlarge", "1.006"),)), "old.csv").rows
    now = parse_sheet(text((cells("g5.xlarge", paid, source_date="2026-08-20"),)), "new.csv")
    assert [one.rule for one in lint_with_shipped(now, before)] == expected


def test_a_change_within_one_list_is_found_too() -> None:
    later = cells("g5.xlarge", "3.2", **{"from": "2026-09-01"})
    assert [one.rule for one in found(GOOD[0], later)] == ["jump"]


def test_a_file_that_is_no_price_list_is_named() -> None:
    [finding] = parse_sheet("a,b\n1,2\n", "x.csv").findings
    assert (finding.rule, finding.where) == ("columns", "x.csv:1")
    assert [one.rule for one in parse_sheet("", "x.csv").findings] == ["columns"]


def test_a_row_with_too_few_or_too_many_cells_is_an_error_and_the_others_are_read() -> None:
    lines = text(GOOD).splitlines()
    broken = "\n".join([*lines[:2], lines[2] + ",more", "aws,us-east-1", *lines[3:]])
    sheet = parse_sheet(broken, "x.csv")
    assert [one.rule for one in sheet.findings] == ["cells", "cells"]
    assert len(sheet.rows) == len(GOOD) - 1


def test_rows_survive_being_written() -> None:
    assert parse_sheet(format_sheet(shipped_rows()), "x").rows == shipped_rows()


# The data in the wheel.


def test_what_is_shipped_has_no_errors_and_the_warnings_that_are_known() -> None:
    findings = [one for sheet in shipped_sheets() for one in lint_with_shipped(sheet)]
    assert [str(one) for one in findings if one.severity is Severity.ERROR] == []
    assert {one.rule for one in findings} == {"unknown-hardware"}
    unknown = {row.instance_type for row in shipped_rows()} - {key[1] for key in shipped_hardware().instances}
    assert unknown == {"p6-b300.48xlarge", *(f"g2-standard-{size}" for size in (4, 12, 24, 48, 96))}


@pytest.mark.parametrize(
    ("name", "nanos"),
    [
        ("p4d.24xlarge", 21_957_642_000),
        ("p5.48xlarge", 55_040_000_000),
        ("p5en.48xlarge", 63_296_000_000),
        ("p6-b200.48xlarge", 113_932_800_000),
        ("g6e.48xlarge", 30_131_180_000),
        ("a2-highgpu-8g", 29_387_080_000),
        ("g2-standard-96", 8_460_000_000),
    ],
)
def test_shipped_prices_are_those_of_their_sources(name: str, nanos: int) -> None:
    rows = [row for row in shipped_rows() if row.instance_type == name and row.capacity_type == "on-demand"]
    assert [(row.effective_nanos_per_hour, row.list_nanos_per_hour) for row in rows] == [(nanos, nanos)]


def test_only_on_demand_prices_are_without_an_end() -> None:
    assert {str(row.capacity_type) for row in shipped_rows() if row.until is None} == {"on-demand"}
    assert {str(row.capacity_type) for row in shipped_rows()} == {"on-demand", "spot", "capacity-block"}


def test_every_shipped_row_says_where_it_is_from() -> None:
    assert all(row.source and row.as_of > 0 for row in shipped_rows())


def test_peaks_are_of_the_whole_machine_or_not_known() -> None:
    hardware = shipped_hardware()
    assert hardware.peak_bf16_tflops("aws", "p5.48xlarge") == 8 * 989
    assert hardware.peak_bf16_tflops("aws", "p4d.24xlarge") == 8 * 312
    assert hardware.peak_bf16_tflops("aws", "g5.xlarge") is None
    assert hardware.peak_bf16_tflops("aws", "p99") is None
    p5 = hardware.instance("aws", "p5.48xlarge")
    assert p5 is not None
    assert (p5.gpus, p5.network_cards, p5.gpu_memory_mib, p5.network_mbps) == (8, 32, 81_920, 3_200_000)


def test_hardware_without_a_source_is_refused() -> None:
    head = "gpu_model,peak_bf16_tflops,source,source_date\n"
    instances = (
        "provider,instance_type,gpus,gpu_model,gpu_memory_mib,vcpus,memory_mib,network_mbps,network_cards"
    )
    with pytest.raises(ValueError, match="no source"):
        parse_hardware(instances + ",source,source_date\n", head + "X,1,,\n")
    with pytest.raises(ValueError, match="columns"):
        parse_hardware("provider\n", head)
    with pytest.raises(ValueError, match="cells"):
        parse_hardware(instances + ",source,source_date\n", head + "X,1\n")


# The command.


def test_the_command_ends_with_1_on_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, old = tmp_path / "good.csv", tmp_path / "bad.csv", tmp_path / "old.csv"
    good.write_text(text(GOOD))
    bad.write_text(text((cells("g5.xlarge", "0"),)))
    old.write_text(text((cells("g5.xlarge", "9", source_date="2026-01-01"),)))
    assert main([str(good)]) == 0
    assert main([str(good), "--previous", str(old)]) == 0
    assert "jump" in capsys.readouterr().out
    assert main([str(good), str(bad)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "6 rows read, 1 errors, 0 warnings"
    assert main([str(tmp_path / "none.csv")]) == 2
    assert "give the path" in capsys.readouterr().err


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlenv_operator.lint_prices", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "price lists" in done.stdout


def test_all_price_lists_in_the_wheel_are_used() -> None:
    folder = Path(str(files("mlenv_operator.cost"))) / "data"
    assert {path.name for path in folder.glob("*.csv")} == {*SHIPPED, "instances.csv", "gpus.csv"}
    assert "Amazon.com" in (folder / "NOTICE").read_text()
