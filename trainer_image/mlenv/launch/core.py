"""What a launcher decides: events in, commands out. No I/O, no clock: the time is in the events.

One attempt is one world. Orders come from the operator, and are obeyed only when neither their term nor
their attempt is older than what was obeyed before. After every event `_advance` compares what is wanted
(an attempt, or to leave) with what is (live ranks), and does the next thing.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from mlenv import record
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
from mlenv_api import protocol
from mlenv_api.exitcodes import ExitCode
from mlenv_api.protocol import LauncherPhase, Order

if TYPE_CHECKING:
    from datetime import datetime

BROKEN_GRACE: Final = 0.5
"""Seconds for ranks whose world is broken: no boundary comes at which they could save.

A handler of theirs can flush what it holds. In a rank that waits in a collective it cannot even begin, since
Python handles signals between its own instructions only; and the whole job waits for the last one.
"""
LINGER: Final = 600.0
"""Seconds that a launcher waits for ``stop`` after its ranks succeeded."""
MAX_EVIDENCE: Final = 64

Commands = tuple[Command, ...]


class Leaving(Enum):
    """Why this launcher is on its way out."""

    STOP = "stop"
    DRAIN = "drain"
    TERMINATED = "terminated"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Setup:
    """What does not change in a launcher's life."""

    grace: float = 28.0
    """Seconds that ranks have to save after SIGTERM."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a launcher knows."""

    term: int = 0
    attempt: int = 0
    """The attempt that `phase` and the live ranks belong to."""
    target: int = 0
    """The newest attempt ordered."""
    world: protocol.World | None = None
    """The world of `target`, once given."""
    known: record.Known | None = None
    """What the newest answer for `target` says of the past; None while the operator keeps no record."""
    origin: protocol.Origin | None = None
    """What the ranks of `target` run from, as stored."""
    order: Order = Order.RUN
    orders: int = 0
    """How often a checkpoint was ordered in `target`: an order that is repeated is one."""
    ordered: str = ""
    """Which one was ordered last."""
    phase: LauncherPhase = LauncherPhase.WAITING
    store: int = 0
    """Which store this is; every attempt has its own."""
    port: int | None = None
    """Where it listens, once it does."""
    first_rank: int = 0
    """Global rank of this node's local rank 0 in `attempt`."""
    live: frozenset[int] = frozenset()
    """Local ranks whose processes exist."""
    ending: bool = False
    """The live ranks were told to end."""
    codes: tuple[int, ...] = ()
    """How ranks ended since they were told to."""
    leaving: Leaving | None = None
    code: int | None = None
    """Exit code of the first failure of `attempt`."""
    cause: str = ""
    """Message of the first failure of `attempt`."""
    sequence: int = 0
    evidence: tuple[protocol.Evidence, ...] = ()
    """What the operator has not stored yet."""
    message: str = ""
    refused: tuple[int, int] | None = None


def step(setup: Setup, state: State, event: Event) -> tuple[State, Commands]:
    """The state after `event`, and what to do now."""
    state, commands = _take(state, event)
    after, more = _advance(setup, state)
    return after, (*commands, *more)


def beat(
    state: State,
    now: datetime,
    progress: protocol.Progress | None,
    version: str,
    nudge_port: int | None = None,
    *,
    told: record.Told | None = None,
    spent: protocol.Spent | None = None,
) -> protocol.Beat:
    """What to tell the operator about `state`; `told` and `spent` are what its ranks say."""
    told = told or record.Told(attempt=state.attempt)
    return protocol.Beat(
        protocol=protocol.PROTOCOL,
        launcher=version,
        term=state.term,
        attempt=state.attempt,
        phase=state.phase,
        port=state.port,
        nudge_port=nudge_port,
        progress=progress,
        spent=spent,
        sealed=told.sealed,
        judged=told.judged,
        origin=told.origin if state.first_rank == 0 else None,
        evidence=state.evidence,
        time=now,
    )


def stored(state: State) -> record.Stored | None:
    """What the ranks of the newest attempt are to know; None before there is one."""
    if state.target == 0:
        return None
    return record.Stored(attempt=state.target, origin=state.origin, orders=state.orders)


def _take(state: State, event: Event) -> tuple[State, Commands]:
    match event:
        case Answered(answer):
            return _answered(state, answer)
        case RankEnded():
            return _rank_ended(state, event)
        case StoreBound(store, port):
            return (replace(state, port=port), (Beat(),)) if store == state.store else (state, ())
        case StoreFailed(message):
            return _store_failed(state, message)
        case Signalled(number):
            return _signalled(state, signal.Signals(number))
        case TimeUp(timer):
            return _time_up(state, timer)


def _time_up(state: State, timer: Timer) -> tuple[State, Commands]:
    if timer is Timer.KILL:
        return state, (Signal(signal.SIGKILL), Say("the grace is over: killing the ranks"))
    return replace(state, leaving=Leaving.STOP), (Say("nobody said stop: leaving, all is done"),)


def _answered(state: State, answer: protocol.Answer) -> tuple[State, Commands]:
    said: Commands = ()
    if answer.message != state.message:
        state = replace(state, message=answer.message)
        said = (Say(f"operator: {answer.message}"),) if answer.message else ()
    if answer.term < state.term or answer.attempt < state.target:
        state, more = _refuse(state, answer)
        return state, (*said, *more)
    same = answer.attempt == state.target
    state = replace(
        state,
        term=answer.term,
        target=answer.attempt,
        world=answer.world or (state.world if same else None),
        known=_known(answer),
        origin=answer.origin or (state.origin if same else None),
        order=answer.order,
        orders=_orders(state, answer) if same else int(answer.order is Order.CHECKPOINT),
        ordered=answer.ordered,
        evidence=tuple(e for e in state.evidence if e.sequence > answer.stored_evidence),
        leaving=state.leaving or _LEAVE.get(answer.order),
    )
    return state, said


def _known(answer: protocol.Answer) -> record.Known | None:
    if "since_attempt" not in answer.model_fields_set:
        return None  # an operator of before there was a record: nobody would ever store what ranks propose
    return record.Known(
        past=answer.past, ceiling_step=answer.ceiling_step, since_attempt=answer.since_attempt
    )


def _orders(state: State, answer: protocol.Answer) -> int:
    # One that is served and another that is given between two beats look like one that was repeated.
    other = state.order is not Order.CHECKPOINT or answer.ordered != state.ordered
    return state.orders + (answer.order is Order.CHECKPOINT and other)


_LEAVE: Final = {Order.STOP: Leaving.STOP, Order.DRAIN: Leaving.DRAIN}


def _refuse(state: State, answer: protocol.Answer) -> tuple[State, Commands]:
    what = (answer.term, answer.attempt)
    if state.refused == what:
        return state, ()
    text = (
        f"refused an answer of term {answer.term} for attempt {answer.attempt}: "
        f"seen were term {state.term} and attempt {state.target}"
    )
    return replace(state, refused=what), (Say(text),)


def _store_failed(state: State, message: str) -> tuple[State, Commands]:
    cause = f"the store of this world cannot be started: {message}"
    if state.live:
        # A formed world can do without, and only needs it to form new groups. The shell goes on trying.
        return replace(state, port=None), (Say(cause), Beat())
    state = replace(state, code=state.code or 1, cause=state.cause or cause, leaving=Leaving.STOP)
    return state, (Say(cause),)


def _rank_ended(state: State, event: RankEnded) -> tuple[State, Commands]:
    own = not state.ending
    state = replace(state, live=state.live - {event.local_rank})
    commands: Commands = (Beat(),)
    if state.ending:
        state = replace(state, codes=(*state.codes, event.code))
    if event.code != 0:
        state = _with_evidence(state, event, own=own)
    if event.code != 0 and own:
        code = shell_code(event.code)
        state = replace(state, phase=LauncherPhase.FAILED, code=code, cause=event.message)
        state, commands = _end(state, BROKEN_GRACE)
        commands = (Say(_verdict(state, event)), *commands)
    if not state.live:
        state, more = _all_ended(state)
        commands = (*commands, *more)
    return state, commands


def _verdict(state: State, event: RankEnded) -> str:
    how = f"exit code {event.code}" if event.code > 0 else signal.Signals(-event.code).name
    what = f"attempt {state.attempt}: rank {state.first_rank + event.local_rank} failed with {how}"
    return f"{what}: {event.message}" if event.message else what


def _with_evidence(state: State, event: RankEnded, *, own: bool) -> State:
    if len(state.evidence) >= MAX_EVIDENCE:
        return state  # the first ones hold the cause
    found = protocol.Evidence(
        sequence=state.sequence + 1,
        attempt=state.attempt,
        rank=state.first_rank + event.local_rank,
        local_rank=event.local_rank,
        exit_code=event.code if event.code >= 0 else None,
        signal=signal.Signals(-event.code).name if event.code < 0 else None,
        own=own,
        reason=event.reason,
        message=event.message[:1024],
        time=event.time,
    )
    return replace(state, sequence=found.sequence, evidence=(*state.evidence, found))


def _all_ended(state: State) -> tuple[State, Commands]:
    state = replace(state, ending=False)
    commands: Commands = (CancelTimer(Timer.KILL), Clear(), Beat())
    if state.phase is not LauncherPhase.RUNNING:
        return state, commands
    state = replace(state, phase=LauncherPhase.SUCCEEDED)
    done = Say(f"attempt {state.attempt}: all ranks of this node are done")
    return state, (*commands, SetTimer(Timer.LINGER, LINGER), done)


def _signalled(state: State, number: signal.Signals) -> tuple[State, Commands]:
    if number not in (signal.SIGTERM, signal.SIGINT):
        return state, (Signal(number),)
    if state.leaving is not None:
        # Whoever presses Ctrl-C twice does not want to wait.
        return state, (Signal(signal.SIGKILL),) if number == signal.SIGINT else ()
    leaving = Leaving.TERMINATED if number == signal.SIGTERM else Leaving.INTERRUPTED
    return replace(state, leaving=leaving), (Say(f"got {number.name}"),)


def _advance(setup: Setup, state: State) -> tuple[State, Commands]:
    if state.leaving is not None:
        if not state.live:
            return state, (Exit(exit_code(state)),)
        return _end(_stopping(state), setup.grace, _first_signal(state.leaving))
    if state.target > state.attempt:
        if state.live:
            return _end(_stopping(state, even_failed=True), BROKEN_GRACE)
        return _start(*_enter(state))
    return _start(state, ())


def _first_signal(leaving: Leaving) -> signal.Signals:
    return signal.SIGINT if leaving is Leaving.INTERRUPTED else signal.SIGTERM


def _stopping(state: State, *, even_failed: bool = False) -> State:
    if state.phase is LauncherPhase.FAILED and not even_failed:
        return state  # that it failed says more than that its last ranks are being ended
    return replace(state, phase=LauncherPhase.STOPPING)


def _end(state: State, grace: float, first: signal.Signals = signal.SIGTERM) -> tuple[State, Commands]:
    if state.ending or not state.live:
        return state, (Beat(),) if not state.live else ()
    state = replace(state, ending=True, codes=())
    return state, (Signal(first), SetTimer(Timer.KILL, grace), Beat())


def _enter(state: State) -> tuple[State, Commands]:
    first = state.attempt == 0
    state = replace(
        state, attempt=state.target, phase=LauncherPhase.WAITING, code=None, cause="", codes=(), ending=False
    )
    commands: Commands = (CancelTimer(Timer.LINGER), CancelTimer(Timer.KILL), Beat())
    if first:
        return state, commands  # nobody has been told the port of the store that is open
    # Keys of an older attempt would mislead torch, and its ranks, where one still lives, must find nobody.
    state = replace(state, store=state.store + 1, port=None)
    return state, (OpenStore(state.store), *commands)


def _start(state: State, commands: Commands) -> tuple[State, Commands]:
    world = state.world
    if state.phase is not LauncherPhase.WAITING or world is None or state.attempt == 0:
        return state, commands
    procs = world.num_proc_per_node
    state = replace(
        state,
        phase=LauncherPhase.RUNNING,
        first_rank=world.node_rank * procs,
        live=frozenset(range(procs)),
    )
    return state, (*commands, Beat(), Start(state.attempt, world, state.known))


def shell_code(code: int) -> int:
    """An exit code as a shell would report it: 128 + n for a process ended by signal n."""
    return code if code >= 0 else 128 - code


def exit_code(state: State) -> int:
    """The code with which a launcher that leaves now tells the kubelet what happened here."""
    if state.phase is LauncherPhase.SUCCEEDED:
        return ExitCode.DONE
    if state.code is not None:
        return state.code
    if state.leaving in _SIGNALLED and state.codes and _saved(state.codes):
        return ExitCode.PREEMPTED
    return _EXIT_CODES[state.leaving or Leaving.STOP]


_SIGNALLED: Final = {Leaving.TERMINATED, Leaving.INTERRUPTED}
_EXIT_CODES: Final = {
    Leaving.STOP: 1,
    Leaving.DRAIN: ExitCode.PREEMPTED,
    Leaving.TERMINATED: 128 + signal.SIGTERM,
    Leaving.INTERRUPTED: 128 + signal.SIGINT,
}


def _saved(codes: tuple[int, ...]) -> bool:
    return all(code in (ExitCode.DONE, ExitCode.PREEMPTED) for code in codes)
