"""The record's pages and rules, without processes."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig import world

from mlenv import record, rules
from mlenv.ckpt.errors import Misconfigured, NothingToResume
from mlenv.launch.beats import encode
from mlenv.notice import failed
from mlenv.sanity.rules import CHECKS
from mlenv_api.checkpoints import MAX_CHECK
from mlenv_api.protocol import MAX_BEAT_BYTES, Beat, Checkpoint, Judged, LauncherPhase, Origin

if TYPE_CHECKING:
    from rig import Rig, Server

ONE = Checkpoint(attempt=2, step=7, digest="b" * 64)
FINE = {"attempt": 2, "step": 7, "digest": "b" * 64}


class TestPages:
    def test_what_is_written_is_read_by_its_own_attempt(self, tmp_path: Path) -> None:
        record.write(tmp_path, record.SEALED, record.Told(attempt=3, sealed=ONE))
        record.write(tmp_path, record.ORIGIN, record.Told(attempt=3, origin=Origin(lost=True)))
        record.write(tmp_path, record.STORED, record.Stored(attempt=3, orders=2, port=9))
        assert record.told(tmp_path, 3) == record.Told(attempt=3, sealed=ONE, origin=Origin(lost=True))
        assert record.told(tmp_path, 4) == record.Told(attempt=4)
        assert record.stored(tmp_path, 3) == record.Stored(attempt=3, orders=2, port=9)
        assert record.stored(tmp_path, 2) is None
        record.clear(tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "page",
        [
            "",
            "null",
            "{nonsense",
            "[" * 4000,
            json.dumps({"attempt": "3", "sealed": FINE}),
            json.dumps({"attempt": 3, "sealed": {**FINE, "digest": "B" * 64}}),
            json.dumps({"attempt": 3, "sealed": {**FINE, "step": "7"}}),
            json.dumps({"attempt": 3, "sealed": {**FINE, "step": -1}}),
            json.dumps({"attempt": 3, "sealed": {**FINE, "step": 10**30}}),
            json.dumps({"attempt": 3, "sealed": {**FINE, "attempt": 4}}),
            json.dumps({"attempt": 3, "sealed": FINE, "more": "x" * 20_000}),
            json.dumps({"attempt": 3, "judged": {"checkpoint": {**FINE, "attempt": 4}}}),
            json.dumps({"attempt": 3, "judged": {"checkpoint": {**FINE, "step": 10**30}}}),
            json.dumps({"attempt": 3, "judged": {"checkpoint": FINE, "failed": [{"check": "x" * 99}]}}),
        ],
    )
    def test_nonsense_is_nothing(self, tmp_path: Path, page: str) -> None:
        (tmp_path / record.SEALED).write_text(page)
        (tmp_path / record.ORIGIN).write_text(page)
        assert record.told(tmp_path, 3) == record.Told(attempt=3)

    def test_the_longest_verdict_has_room_in_a_page_and_in_a_beat(self, tmp_path: Path) -> None:
        reasons = [f"{chr(7) * MAX_CHECK}{number}: {chr(7) * 2000}" for number in range(100)]
        reasons += [f"{name}: {chr(0x1F600) * 2000}" for name in CHECKS]
        for found in (failed(reasons), failed(reasons[100:])):
            told = record.Told(attempt=3, sealed=ONE, judged=Judged(checkpoint=ONE, failed=found))
            record.write(tmp_path, record.SEALED, told)
            assert record.told(tmp_path, 3) == told
            beat = Beat(protocol=1, judged=told.judged, time=datetime.now(UTC))
            assert len(encode(beat)) < MAX_BEAT_BYTES // 4

    def test_a_verdict_names_each_check_once(self) -> None:
        found = failed(["probe: it raised KeyError: 'x'", "dead_rows: a: 99.9%", "dead_rows: b: 99.8%"])
        assert [(one.check, one.message) for one in found] == [
            ("probe", "it raised KeyError: 'x'"),
            ("dead_rows", "a: 99.9%"),
        ]

    def test_neither_a_pipe_nor_a_folder_holds_up_the_reader(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / record.SEALED)
        (tmp_path / record.ORIGIN).mkdir()
        assert record.told(tmp_path, 3) == record.Told(attempt=3)

    def test_a_beat_without_them_is_still_a_beat(self, rig: Rig, server: Server) -> None:
        launcher = rig.launch("sleep", "600", urls=server.url)
        server.say("p0", 1, next_beat_seconds=30)
        server.wait("p0", lambda b: b.phase is LauncherPhase.WAITING and b.attempt == 1, "waiting")
        os.mkfifo(launcher.run_dir / record.ORIGIN)
        (launcher.run_dir / record.SEALED).write_text("{nonsense")
        server.say("p0", 1, world=world())
        server.wait("p0", lambda b: b.attempt == 1, "a beat")
        sealed = ONE.model_copy(update={"attempt": 1})
        record.write(launcher.run_dir, record.SEALED, record.Told(attempt=1, sealed=sealed))
        record.poke(launcher.run_dir, 1)
        server.wait("p0", lambda b: b.sealed == sealed and b.origin is None, "the seal")
        assert server.errors == []

    def test_a_poke_that_nobody_hears_is_no_error(self, tmp_path: Path) -> None:
        record.poke(tmp_path, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        record.write(tmp_path, record.STORED, record.Stored(attempt=1, port=port))
        record.poke(tmp_path, 1)


def read(known: dict[str, Any] | None = None, spec: dict[str, Any] | None = None) -> rules.Rules:
    env = {"MLENV_RESUME": json.dumps(known)} if known is not None else {}
    return rules.read(env | ({"MLENV_CHECKPOINT": json.dumps(spec)} if spec is not None else {}))


class TestRules:
    def test_what_the_program_says_wins(self) -> None:
        by_steps, by_time = read(spec={"intervalSteps": 5}), read(spec={"intervalSeconds": 60})
        assert by_steps.interval(None, None) == (5, None)
        assert by_steps.interval(None, 9.0) == (None, 9.0)
        assert by_time.interval(None, None) == (None, 60.0)
        assert by_time.interval(3, None) == (3, None)
        assert read().interval(None, None) == (None, 300.0)

    def test_a_past_is_forgotten_only_where_that_is_accepted(self) -> None:
        known = read({"past": FINE})
        with pytest.raises(NothingToResume, match="of attempt 2 at step 7 is recorded for this job, but /f"):
            known.lost(Path("/f"), durable=True)
        assert "7 steps are lost" in known.lost(Path("/f"), durable=False)
        with pytest.raises(NothingToResume, match="that of step 7 went with its pods"):
            read({"past": FINE}, {"resume": {"policy": "Required"}}).lost(Path("/f"), durable=False)

    def test_required_says_where_it_looked_and_what_would_help(self) -> None:
        with pytest.raises(NothingToResume, match=r"/f holds no checkpoint, nor does .*resume.from name one"):
            read({}, {"resume": {"policy": "Required"}}).lost(Path("/f"), durable=False)

    def test_required_takes_what_from_names_until_there_is_something_to_lose(self) -> None:
        spec = {"resume": {"policy": "Required", "from": "/old"}}
        first = read({}, spec)
        assert (first.lost(Path("/f"), durable=False), first.source) == ("", Path("/old"))
        for durable in (False, True):
            with pytest.raises(NothingToResume, match="step 7"):
                read({"past": FINE}, spec).lost(Path("/f"), durable=durable)

    @pytest.mark.parametrize(
        "known", [None, {}, {"past": FINE, "sinceAttempt": 3}, {"past": FINE, "ceilingStep": 0}]
    )
    def test_where_a_new_start_is_meant_nothing_is_lost(self, known: dict[str, Any] | None) -> None:
        assert read(known).lost(Path("/f"), durable=True) == ""

    def test_a_second_session_keeps_bounds_and_has_no_past(self) -> None:
        spec = {"intervalSteps": 5, "resume": {"policy": "From", "from": "/x"}}
        later = read({"past": FINE, "sinceAttempt": 2, "ceilingStep": 9}, spec).later
        assert (later.since, later.ceiling, later.source) == (2, 9, None)
        assert later.lost(Path("/f"), durable=True) == ""
        assert later.interval(None, None) == (5, None)

    def test_what_cannot_be_obeyed_is_for_a_person(self) -> None:
        for env in ({"MLENV_RESUME": "{"}, {"MLENV_CHECKPOINT": '{"resume":{"policy":"Maybe"}}'}):
            with pytest.raises(Misconfigured, match="makes no sense"):
                rules.read(env)
