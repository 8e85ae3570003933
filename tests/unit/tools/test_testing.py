"""What ``./run test`` runs, and what it says at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from tasks import checks, machine, testing, verdict  # noqa: E402
from tasks.process import Ended, environment  # noqa: E402
from tasks.tiers import TIERS, Counts, Tier, read_counts  # noqa: E402
from tasks.verdict import Result, judge  # noqa: E402


def test_all_passed() -> None:
    found = judge([Result("lint", passed=3), Result("unit", passed=40)], 125)
    assert (found.code, found.line) == (0, "OK: 43 passed in 2 min 5 s (lint, unit)")


def test_what_could_not_be_run_is_never_green() -> None:
    results = [Result("unit", passed=1), *(Result(name, lacking="need root") for name in ("api", "e2e"))]
    found = judge(results, 1)
    assert (found.code, found.line) == (3, "INCOMPLETE: skipped api, e2e (need root)")


def test_a_failure_counts_more_than_what_could_not_be_run() -> None:
    results = [Result("unit", failed=2), Result("e2e", not_run=True), Result("api", lacking="need root")]
    found = judge(results, 1)
    assert (found.code, found.line) == (1, "FAILED: unit (2); not run after that: e2e")


def test_skipped_tests_are_counted_as_what_they_are() -> None:
    found = judge([Result("unit", passed=1, skipped=2)], 59.6)
    assert found.line == "OK: 1 passed, 2 skipped in 1 min 0 s (unit)"


def test_no_tests_at_all_is_not_green() -> None:
    assert judge([], 1).code == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  api\n  e2e\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_skip(): pytest.skip('x')\n"
        "@pytest.mark.slow\ndef test_slow(): pass\n"
        "@pytest.mark.e2e\ndef test_real(): assert 0\n"
    )
    return tmp_path


def run_tier(tier: Tier, folder: Path, *, slow: bool = False) -> tuple[int, Counts]:
    report = folder / "report.xml"
    argv = [sys.executable, *tier.pytest(report, slow=slow)[1:]]
    done = subprocess.run(argv, cwd=folder, check=False, capture_output=True)
    return done.returncode, read_counts(report)


def test_a_tier_runs_what_belongs_to_it(folder: Path) -> None:
    assert run_tier(Tier("unit", (".",)), folder) == (0, Counts(passed=1, skipped=1))
    assert run_tier(Tier("unit", (".",)), folder, slow=True) == (0, Counts(passed=2, skipped=1))
    assert run_tier(Tier("e2e", (".",), marks="e2e"), folder) == (1, Counts(failed=1))


def test_an_empty_tier_is_an_error(folder: Path) -> None:
    code, counts = run_tier(Tier("api", (".",), marks="api"), folder)
    assert (code, counts) == (5, Counts())


def test_a_missing_folder_is_an_error(folder: Path) -> None:
    assert run_tier(Tier("unit", ("none",)), folder)[0] != 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tiers that were run; nothing really is."""
    made: list[str] = []

    def execute(argv: tuple[str, ...], *, quiet: bool = False) -> Ended:
        made.append(argv[argv.index("pytest") + 1])
        assert (argv[0] == "nice") == quiet
        return Ended(0, 0.0, f"printed by {made[-1]}" if quiet else "")

    monkeypatch.setattr(testing, "execute", execute)
    monkeypatch.setattr(checks, "failing", list)
    return made


def test_without_root_all_but_the_cluster_is_run(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(machine, "lack_server", lambda: "")
    monkeypatch.setattr(machine, "lack_browser", lambda: "")
    monkeypatch.setattr(machine, "lack_prometheus", lambda: "")
    assert testing.run(only=(), slow=False) == verdict.INCOMPLETE
    assert capsys.readouterr().out.splitlines()[-1] == "INCOMPLETE: skipped api, e2e (need root)"
    assert calls == [tier.paths[0] for tier in TIERS if not tier.cluster]


def test_without_postgresql_its_tier_is_not_green(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "lack_server", lambda: "need PostgreSQL")
    assert testing.run(only=("unit", "postgres"), slow=False) == verdict.INCOMPLETE
    assert capsys.readouterr().out.splitlines()[-1] == "INCOMPLETE: skipped postgres (need PostgreSQL)"
    assert calls == ["tests/unit"]


def test_without_a_browser_its_tier_is_not_green(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "lack_browser", lambda: "need Chromium")
    assert testing.run(only=("unit", "browser"), slow=False) == verdict.INCOMPLETE
    assert capsys.readouterr().out.splitlines()[-1] == "INCOMPLETE: skipped browser (need Chromium)"
    assert calls == ["tests/unit"]


def test_nothing_long_is_run_after_a_failure(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "failing", lambda: ["rules"])
    assert testing.run(only=(), slow=False) == verdict.FAILED
    assert "tests/api" not in calls


LACKS = ("lack", "lack_server", "lack_browser", "lack_prometheus")


def test_what_needs_no_cluster_runs_beside_what_does_and_is_shown_when_it_has_ended(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in LACKS:
        monkeypatch.setattr(machine, name, lambda: "")
    assert testing.run(only=("unit", "trainer", "local", "e2e"), slow=False) == verdict.PASSED
    assert calls[0] == "tests/unit", "what is quick goes first, and alone"
    assert sorted(calls[1:]) == ["tests/local", "tests/local", "tests/trainer"]
    shown = capsys.readouterr().out
    assert "=== trainer, beside the next ===" in shown
    assert "=== trainer ===\nprinted by tests/trainer" in shown
    assert "(unit, trainer, local, e2e)" in shown.splitlines()[-1]


def test_a_failure_beside_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LACKS:
        monkeypatch.setattr(machine, name, lambda: "")
    monkeypatch.setattr(testing, "execute", lambda argv, quiet=False: Ended(int(quiet), 0.0, "why"))
    assert testing.run(only=("trainer", "e2e"), slow=False) == verdict.FAILED


def test_only_what_was_asked_for(calls: list[str]) -> None:
    assert testing.run(only=("golden",), slow=False) == verdict.PASSED
    assert calls == ["tests/golden"]


def test_a_failing_check_shows_its_output_and_its_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = checks.Check("bad", ("python", "-c", "print('line 3 is wrong'); raise SystemExit(1)"), "mend it")
    monkeypatch.setattr(checks, "CHECKS", (checks.Check("good", ("python", "-c", "")), bad))
    assert checks.run() == 1
    shown = capsys.readouterr().out
    assert "line 3 is wrong" in shown
    assert "mend it with: mend it" in shown


def test_what_a_task_starts_finds_the_environment_first_and_our_own_uv_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("MLENV_UV", "/cache/uv-1/bin/uv")
    assert environment()["PATH"] == f"{Path(sys.executable).parent}:/usr/bin:/cache/uv-1/bin"
    monkeypatch.delenv("MLENV_UV")
    assert environment()["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_without_prometheus_its_tier_is_not_green(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "lack_prometheus", lambda: "need Prometheus")
    assert testing.run(only=("unit", "prometheus"), slow=False) == verdict.INCOMPLETE
    assert capsys.readouterr().out.splitlines()[-1] == "INCOMPLETE: skipped prometheus (need Prometheus)"
    assert calls == ["tests/unit"]
