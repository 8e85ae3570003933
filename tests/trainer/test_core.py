"""The launcher's decisions, event by event."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv import record
from mlenv.launch import alone, core
from mlenv.launch.beats import encode
from mlenv.launch.events import (
    Answered,
    Beat,
    CancelTimer,
    Clear,
    Command,
    Event,
    Exit,
    OpenStore,
    RankEnded,
    Say,
    SetTimer,
    Signal,
    Signalled,
    Start,
    StoreBound,
    StoreFailed,
    Timer,
    TimeUp,
)
from mlenv_api.protocol import (
    MAX_BEAT_BYTES,
    Answer,
    Checkpoint,
    Evidence,
    LauncherPhase,
    Order,
    Origin,
    Progress,
    World,
)
from mlenv_api.protocol import Beat as Message

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WORLD = World(num_nodes=2, node_rank=1, num_proc_per_node=2, master_addr="10.0.0.1", master_port=4000)


class Launcher:
    """A state, and the commands of the last event."""

    def __init__(self) -> None:
        self.setup = core.Setup(grace=28.0)
        self.state = core.State()
        self.said: list[Command] = []

    def on(self, event: Event) -> list[Command]:
        self.state, commands = core.step(self.setup, self.state, event)
        self.said = [c for c in commands if not isinstance(c, Say)]
        return self.said

    def answer(
        self, attempt: int = 1, *, term: int = 1, world: World | None = None, **more: Any
    ) -> list[Command]:
        return self.on(Answered(Answer(term=term, attempt=attempt, world=world, **more)))

    def ended(self, local_rank: int, code: int, message: str = "", reason: str = "") -> list[Command]:
        return self.on(RankEnded(local_rank, code, NOW, message, reason))


@pytest.fixture
def waiting() -> Launcher:
    launcher = Launcher()
    launcher.answer(1)
    return launcher


@pytest.fixture
def running(waiting: Launcher) -> Launcher:
    waiting.answer(1, world=WORLD)
    return waiting


@pytest.fixture
def failed(running: Launcher) -> Launcher:
    running.ended(0, 3, "ValueError: boom")
    running.ended(1, -15)
    return running


@pytest.fixture
def succeeded(running: Launcher) -> Launcher:
    running.ended(0, 0)
    running.ended(1, 0)
    return running


def kinds(commands: Sequence[Command]) -> list[type]:
    return [type(c) for c in commands]


def exit_codes(commands: Sequence[Command]) -> list[int]:
    return [c.code for c in commands if isinstance(c, Exit)]


class TestStart:
    def test_waits_for_the_world(self, waiting: Launcher) -> None:
        assert waiting.state.phase is LauncherPhase.WAITING
        assert waiting.state.attempt == 1

    def test_starts_all_ranks_of_the_node_once(self, running: Launcher) -> None:
        assert running.said == [Beat(), Start(1, WORLD)]
        assert running.state.live == {0, 1}
        assert running.state.phase is LauncherPhase.RUNNING
        assert running.answer(1, world=WORLD) == []

    def test_first_answer_may_bring_the_world_at_once(self) -> None:
        launcher = Launcher()
        assert Start(7, WORLD) in launcher.answer(7, world=WORLD)

    def test_attempt_zero_starts_nothing(self) -> None:
        assert Launcher().answer(0, world=WORLD) == []

    def test_every_attempt_has_a_store_of_its_own(self, failed: Launcher) -> None:
        failed.on(StoreBound(0, 4711))
        assert OpenStore(1) in failed.answer(2)
        assert failed.state.port is None
        assert failed.on(StoreBound(0, 4711)) == []
        assert failed.state.port is None
        failed.on(StoreBound(1, 4712))
        assert failed.state.port == 4712

    def test_the_first_attempt_uses_the_store_that_is_open(self) -> None:
        launcher = Launcher()
        launcher.on(StoreBound(0, 4711))
        assert not any(isinstance(c, OpenStore) for c in launcher.answer(1))
        assert launcher.state.port == 4711

    def test_port_is_told_at_once(self, waiting: Launcher) -> None:
        assert waiting.on(StoreBound(0, 4711)) == [Beat()]
        assert waiting.state.port == 4711

    def test_missing_program_is_evidence(self, running: Launcher) -> None:
        running.ended(0, 127, "nope: command not found", "CommandNotFound")
        assert running.state.phase is LauncherPhase.FAILED
        running.ended(1, 127, "nope: command not found", "CommandNotFound")
        first, second = running.state.evidence
        assert (first.exit_code, first.reason, first.own) == (127, "CommandNotFound", True)
        assert not second.own
        assert exit_codes(running.answer(1, order=Order.STOP)) == [127]


class TestFencing:
    @pytest.mark.parametrize(("term", "attempt"), [(1, 1), (0, 3), (1, 2), (9, 2)])
    def test_older_answers_are_refused(self, term: int, attempt: int) -> None:
        launcher = Launcher()
        launcher.answer(3, term=2, world=WORLD)
        if (term, attempt) == (9, 2):
            assert launcher.answer(attempt, term=term, order=Order.STOP) == []
            assert launcher.state.term == 2
        else:
            assert launcher.answer(attempt, term=term, order=Order.STOP) == []
        assert launcher.state.phase is LauncherPhase.RUNNING

    def test_older_term_is_refused_even_for_a_newer_attempt(self, running: Launcher) -> None:
        running.answer(1, term=5)
        assert running.answer(2, term=4, world=WORLD) == []
        assert running.state.live == {0, 1}

    def test_refused_answers_store_no_evidence(self, failed: Launcher) -> None:
        failed.answer(1, term=4)
        failed.answer(1, term=3, stored_evidence=99)
        assert len(failed.state.evidence) == 2

    def test_refusal_is_said_once(self, running: Launcher) -> None:
        running.answer(5, term=5)
        event = Answered(Answer(term=1, attempt=1))
        _, first = core.step(running.setup, running.state, event)
        state, _ = core.step(running.setup, running.state, event)
        _, second = core.step(running.setup, state, event)
        assert kinds(first) == [Say]
        assert kinds(second) == []

    def test_message_is_said_once_even_when_refused(self, running: Launcher) -> None:
        running.answer(5, term=5)
        event = Answered(Answer(term=5, attempt=0, message="this launcher is too old"))
        state, first = core.step(running.setup, running.state, event)
        _, second = core.step(running.setup, state, event)
        assert any("too old" in c.text for c in first if isinstance(c, Say))
        assert second == ()


class TestRecord:
    PAST = Checkpoint(attempt=1, step=70, digest="a" * 64)

    def test_ranks_are_told_what_the_newest_answer_knows(self, waiting: Launcher) -> None:
        waiting.answer(1, since_attempt=1)
        commands = waiting.answer(1, world=WORLD, past=self.PAST, ceiling_step=5, since_attempt=2)
        known = record.Known(past=self.PAST, ceiling_step=5, since_attempt=2)
        assert Start(1, WORLD, known) in commands

    def test_an_operator_without_a_record_is_not_waited_for(self, running: Launcher) -> None:
        assert Start(1, WORLD, None) in running.said

    def test_what_is_stored_is_of_one_attempt(self, running: Launcher) -> None:
        origin = Origin(checkpoint=self.PAST)
        running.answer(1, origin=origin)
        running.answer(1)
        assert core.stored(running.state) == record.Stored(attempt=1, origin=origin)
        running.answer(2)
        assert core.stored(running.state) == record.Stored(attempt=2)
        running.answer(1, origin=origin)
        assert core.stored(running.state) == record.Stored(attempt=2)
        assert core.stored(Launcher().state) is None

    def test_a_repeated_order_is_one(self, running: Launcher) -> None:
        for order in (Order.CHECKPOINT, Order.CHECKPOINT, Order.RUN, Order.CHECKPOINT):
            running.answer(1, order=order)
        assert running.state.orders == 2
        running.answer(2, order=Order.CHECKPOINT)
        assert running.state.orders == 1

    def test_another_order_counts_though_nobody_saw_the_first_one_end(self, running: Launcher) -> None:
        for text in ("a", "a", "b", "b"):
            running.answer(1, order=Order.CHECKPOINT, ordered=text)
        assert running.state.orders == 2

    def test_only_the_node_of_rank_0_proposes(self, running: Launcher) -> None:
        told = record.Told(attempt=1, sealed=self.PAST, origin=Origin())
        message = core.beat(running.state, NOW, None, "x", told=told)
        assert (message.sealed, message.origin) == (self.PAST, None)
        first = Launcher()
        first.answer(1, world=WORLD.model_copy(update={"node_rank": 0}))
        assert core.beat(first.state, NOW, None, "x", told=told).origin == Origin()

    def test_alone_whatever_is_proposed_is_the_record(self) -> None:
        origin = Origin(checkpoint=self.PAST)
        found = alone.answer(core.State(), 1, "127.0.0.1", origin)
        assert (found.origin, "since_attempt" in found.model_fields_set) == (origin, True)


class TestFailure:
    def test_peers_are_ended_and_evidence_is_sent_at_once(self, running: Launcher) -> None:
        commands = running.ended(1, 3, "ValueError: boom")
        assert commands == [Signal(signal.SIGTERM), SetTimer(Timer.KILL, core.BROKEN_GRACE), Beat()]
        assert running.state.phase is LauncherPhase.FAILED
        (evidence,) = running.state.evidence
        assert evidence == Evidence(
            sequence=1,
            attempt=1,
            rank=3,
            local_rank=1,
            exit_code=3,
            own=True,
            message="ValueError: boom",
            time=NOW,
        )

    def test_what_we_ended_is_not_its_own_fault(self, failed: Launcher) -> None:
        assert [(e.own, e.signal, e.exit_code) for e in failed.state.evidence] == [
            (True, None, 3),
            (False, "SIGTERM", None),
        ]
        assert failed.said == [Beat(), CancelTimer(Timer.KILL), Clear(), Beat()]

    def test_evidence_is_repeated_until_stored(self, failed: Launcher) -> None:
        failed.answer(1)
        assert len(failed.state.evidence) == 2
        failed.answer(1, stored_evidence=1)
        assert [e.sequence for e in failed.state.evidence] == [2]
        failed.answer(1, stored_evidence=2)
        assert failed.state.evidence == ()

    def test_stays_until_told(self, failed: Launcher) -> None:
        assert failed.answer(1, world=WORLD) == []
        assert failed.state.phase is LauncherPhase.FAILED

    def test_next_attempt_in_place(self, failed: Launcher) -> None:
        failed.answer(2)
        assert (failed.state.phase, failed.state.attempt) == (LauncherPhase.WAITING, 2)
        assert Start(2, WORLD) in failed.answer(2, world=WORLD)

    def test_sequence_goes_on_over_attempts(self, failed: Launcher) -> None:
        failed.answer(2, world=WORLD)
        failed.ended(0, 1)
        assert [(e.sequence, e.attempt) for e in failed.state.evidence] == [(1, 1), (2, 1), (3, 2)]

    def test_a_new_attempt_forgets_the_old_exit_code(self, failed: Launcher) -> None:
        failed.answer(2, world=WORLD)
        failed.ended(0, 0)
        failed.ended(1, 0)
        assert exit_codes(failed.answer(2, order=Order.STOP)) == [0]

    def test_stubborn_peers_are_killed(self, running: Launcher) -> None:
        running.ended(0, 1)
        assert running.on(TimeUp(Timer.KILL)) == [Signal(signal.SIGKILL)]

    def test_evidence_is_bounded_and_keeps_the_first(self) -> None:
        launcher = Launcher()
        for attempt in range(1, 60):
            launcher.answer(attempt, world=WORLD)
            launcher.ended(0, attempt % 250 + 1)
            launcher.ended(1, -9)
        assert len(launcher.state.evidence) == core.MAX_EVIDENCE
        assert launcher.state.evidence[0].sequence == 1
        message = core.beat(launcher.state, NOW, None, "x")
        assert len(Message.model_validate_json(message.model_dump_json()).evidence) == core.MAX_EVIDENCE

    def test_stop_after_failure_exits_with_its_code(self, failed: Launcher) -> None:
        assert exit_codes(failed.answer(1, order=Order.STOP)) == [3]

    def test_a_signal_becomes_a_shell_code(self, running: Launcher) -> None:
        running.ended(0, -9)
        running.ended(1, -15)
        assert exit_codes(running.answer(1, order=Order.STOP)) == [137]

    def test_first_rank_done_and_second_failed_is_a_failure(self, running: Launcher) -> None:
        running.ended(0, 0)
        running.ended(1, 1)
        assert running.state.phase is LauncherPhase.FAILED


class TestNewerAttempt:
    def test_ends_the_old_ranks_first(self, running: Launcher) -> None:
        commands = running.answer(2, world=WORLD)
        assert commands == [Signal(signal.SIGTERM), SetTimer(Timer.KILL, core.BROKEN_GRACE), Beat()]
        assert (running.state.phase, running.state.attempt) == (LauncherPhase.STOPPING, 1)

    def test_starts_the_new_ones_when_all_are_gone(self, running: Launcher) -> None:
        running.answer(2, world=WORLD)
        assert Start(2, WORLD) not in running.ended(0, -15)
        commands = running.ended(1, -15)
        assert commands.index(Clear()) < commands.index(Start(2, WORLD))
        assert all(not e.own for e in running.state.evidence)

    def test_the_old_world_is_not_used_for_the_new_attempt(self, running: Launcher) -> None:
        running.answer(2)
        running.ended(0, -15)
        running.ended(1, -15)
        assert (running.state.phase, running.state.attempt) == (LauncherPhase.WAITING, 2)

    def test_even_newer_while_ending(self, running: Launcher) -> None:
        running.answer(2, world=WORLD)
        assert running.answer(3, world=WORLD) == []
        running.ended(0, -15)
        assert Start(3, WORLD) in running.ended(1, -15)

    def test_after_success(self, succeeded: Launcher) -> None:
        commands = succeeded.answer(2, world=WORLD)
        assert CancelTimer(Timer.LINGER) in commands
        assert commands[-1] == Start(2, WORLD)


class TestSuccess:
    def test_stays_for_stop(self, succeeded: Launcher) -> None:
        assert succeeded.state.phase is LauncherPhase.SUCCEEDED
        assert SetTimer(Timer.LINGER, 600.0) in succeeded.said
        assert succeeded.answer(1, world=WORLD) == []
        assert exit_codes(succeeded.answer(1, order=Order.STOP)) == [0]

    def test_leaves_after_ten_minutes(self, succeeded: Launcher) -> None:
        assert exit_codes(succeeded.on(TimeUp(Timer.LINGER))) == [0]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_after_success_is_still_success(self, succeeded: Launcher, number: int) -> None:
        assert exit_codes(succeeded.on(Signalled(number))) == [0]

    def test_drain_after_success(self, succeeded: Launcher) -> None:
        assert exit_codes(succeeded.answer(1, order=Order.DRAIN)) == [0]


class TestLeaving:
    def test_stop_while_running(self, running: Launcher) -> None:
        commands = running.answer(1, order=Order.STOP)
        assert commands == [Signal(signal.SIGTERM), SetTimer(Timer.KILL, 28.0), Beat()]
        assert running.ended(0, -15) == [Beat()]
        assert exit_codes(running.ended(1, -15)) == [1]

    def test_stop_while_waiting(self, waiting: Launcher) -> None:
        assert exit_codes(waiting.answer(1, order=Order.STOP)) == [1]

    def test_drain(self, running: Launcher) -> None:
        assert Signal(signal.SIGTERM) in running.answer(1, order=Order.DRAIN)
        running.ended(0, -15)
        assert exit_codes(running.ended(1, 76)) == [76]

    @pytest.mark.parametrize(
        ("codes", "expected"), [((0, 76), 76), ((76, 76), 76), ((0, 0), 76), ((76, -15), 143), ((1, 0), 143)]
    )
    def test_sigterm(self, running: Launcher, codes: tuple[int, int], expected: int) -> None:
        assert running.on(Signalled(signal.SIGTERM)) == [
            Signal(signal.SIGTERM),
            SetTimer(Timer.KILL, 28.0),
            Beat(),
        ]
        running.ended(0, codes[0])
        assert exit_codes(running.ended(1, codes[1])) == [expected]
        assert not any(e.own for e in running.state.evidence)

    def test_sigterm_while_waiting(self, waiting: Launcher) -> None:
        assert exit_codes(waiting.on(Signalled(signal.SIGTERM))) == [143]

    def test_sigterm_after_failure_tells_the_failure(self, failed: Launcher) -> None:
        assert exit_codes(failed.on(Signalled(signal.SIGTERM))) == [3]

    def test_no_new_attempt_on_the_way_out(self, running: Launcher) -> None:
        running.on(Signalled(signal.SIGTERM))
        assert running.answer(2, world=WORLD) == []
        running.ended(0, -15)
        assert Start(2, WORLD) not in running.ended(1, -15)

    def test_interrupt_and_again(self, running: Launcher) -> None:
        assert running.on(Signalled(signal.SIGINT))[0] == Signal(signal.SIGINT)
        assert running.on(Signalled(signal.SIGINT)) == [Signal(signal.SIGKILL)]
        running.ended(0, -2)
        assert exit_codes(running.ended(1, -9)) == [130]

    def test_usr1_is_only_passed_on(self, running: Launcher) -> None:
        before = running.state
        assert running.on(Signalled(signal.SIGUSR1)) == [Signal(signal.SIGUSR1)]
        assert running.state == before


class TestStore:
    def test_failure_without_ranks_ends_the_pod(self, waiting: Launcher) -> None:
        assert exit_codes(waiting.on(StoreFailed("no torch"))) == [1]
        assert "no torch" in waiting.state.cause

    def test_failure_under_running_ranks_is_no_reason_to_end_them(self, running: Launcher) -> None:
        running.on(StoreBound(0, 4711))
        assert running.on(StoreFailed("out of memory")) == [Beat()]
        assert running.state.port is None
        assert running.state.live == {0, 1}


def test_beat_says_what_the_state_is(failed: Launcher) -> None:
    failed.on(StoreBound(0, 4711))
    beat = core.beat(failed.state, NOW, None, "0.1.0")
    assert (beat.term, beat.attempt, beat.phase, beat.port) == (1, 1, LauncherPhase.FAILED, 4711)
    assert Message.model_validate_json(beat.model_dump_json()) == beat


def test_what_goes_over_the_wire_is_frozen() -> None:
    launcher = Launcher()
    launcher.answer(2, term=3, world=WORLD)
    launcher.on(StoreBound(0, 4711))
    launcher.ended(1, -9, "boom")
    progress = Progress(step=7, total_steps=9, samples=64, metrics={"loss": float("nan")})
    assert json.loads(encode(core.beat(launcher.state, NOW, progress, "0.1.0"))) == {
        "protocol": 1,
        "launcher": "0.1.0",
        "term": 3,
        "attempt": 2,
        "phase": "Failed",
        "port": 4711,
        "progress": {"step": 7, "totalSteps": 9, "samples": 64, "metrics": {"loss": "NaN"}},
        "evidence": [
            {
                "sequence": 1,
                "attempt": 2,
                "rank": 3,
                "localRank": 1,
                "signal": "SIGKILL",
                "own": True,
                "reason": "",
                "message": "boom",
                "time": "2026-01-02T03:04:05Z",
            }
        ],
        "time": "2026-01-02T03:04:05Z",
    }


def test_a_beat_is_never_too_big() -> None:
    launcher = Launcher()
    for attempt in range(1, 40):
        launcher.answer(attempt, world=WORLD)
        launcher.ended(0, 1, "\N{FIRE}" * 1024)
        launcher.ended(1, -15, "\N{FIRE}" * 1024)
    body = encode(core.beat(launcher.state, NOW, None, "x"))
    assert len(body) <= MAX_BEAT_BYTES
    assert Message.model_validate_json(body).evidence[0].sequence == 1


def test_alone_runs_one_attempt_and_stops() -> None:
    launcher = Launcher()
    launcher.on(Answered(alone.answer(launcher.state, 2, "127.0.0.1")))
    launcher.on(StoreBound(0, 4711))
    started = launcher.on(Answered(alone.answer(launcher.state, 2, "127.0.0.1")))
    assert any(isinstance(c, Start) and c.world.num_proc_per_node == 2 for c in started)
    launcher.ended(0, 0)
    launcher.ended(1, 0)
    assert exit_codes(launcher.on(Answered(alone.answer(launcher.state, 2, "127.0.0.1")))) == [0]


class Shell:
    """Obeys commands as the real one does, and says when one makes no sense."""

    def __init__(self) -> None:
        self.launcher = Launcher()
        self.live: set[int] = set()
        self.started: list[int] = []
        self.exited = False
        self.fence = (0, 0)

    def on(self, event: Event) -> None:
        if isinstance(event, RankEnded):
            self.live.discard(event.local_rank)
        for command in self.launcher.on(event):
            assert not self.exited
            self.obey(command)
        self.check()

    def obey(self, command: Command) -> None:
        match command:
            case Start(attempt, world):
                assert not self.live
                assert attempt > max(self.started, default=0)
                self.started.append(attempt)
                self.live = set(range(world.num_proc_per_node))
            case Clear():
                assert not self.live
            case Exit(code):
                assert not self.live
                assert 0 <= code <= 255
                self.exited = True

    def check(self) -> None:
        state = self.launcher.state
        assert state.live == self.live
        assert (state.term, state.target) >= self.fence
        assert state.target >= self.fence[1]
        self.fence = (state.term, state.target)
        assert state.phase is not LauncherPhase.RUNNING or (self.live and not state.ending)
        assert state.phase is not LauncherPhase.WAITING or not self.live
        assert [e.sequence for e in state.evidence] == sorted({e.sequence for e in state.evidence})
        core.beat(state, NOW, None, "x")


answers = st.builds(
    Answer,
    term=st.integers(0, 3),
    attempt=st.integers(0, 5),
    order=st.sampled_from([Order.RUN] * 6 + [Order.CHECKPOINT, Order.DRAIN, Order.STOP]),
    world=st.sampled_from([None, WORLD, WORLD]),
    stored_evidence=st.integers(0, 4),
)
signals = st.sampled_from([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
others = st.one_of(
    signals.map(Signalled),
    st.sampled_from([TimeUp(Timer.KILL), StoreBound(0, 5), StoreFailed("gone")]),
)
ends = st.sampled_from([0, 0, 1, 76, -9, -15])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.one_of(answers.map(Answered), answers.map(Answered), ends, ends, others), max_size=40),
    st.data(),
)
def test_whatever_comes_there_is_never_a_second_world(events: list[Event | int], data: st.DataObject) -> None:
    shell = Shell()
    for event in events:
        if shell.exited:
            return
        if not isinstance(event, int):
            shell.on(event)
        elif shell.live:
            shell.on(RankEnded(data.draw(st.sampled_from(sorted(shell.live))), event, NOW))
