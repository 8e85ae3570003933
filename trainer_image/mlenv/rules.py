"""What the job and its record say about checkpoints. Pure, but for the environment that is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv.ckpt.errors import Misconfigured, NothingToResume
from mlenv.record import Known
from mlenv_api import names
from mlenv_api.checkpointspec import CheckpointSpec, ResumePolicy
from mlenv_api.tracking import is_artifact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlenv_api.protocol import Checkpoint

SECONDS: Final = 300.0
OVER: Final = "spec.checkpoint.resume.policy: Never starts over"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a Session of this program."""

    known: Known | None = None
    """None where no launcher keeps a record: then nothing is proposed or waited for."""
    spec: CheckpointSpec = field(default_factory=CheckpointSpec)
    spool: Path | None = None
    """A shared folder of this job's own."""
    courier: Path | None = None
    """Where this pod's courier is left word; None: there is none."""

    def interval(self, steps: int | None, seconds: float | None) -> tuple[int | None, float | None]:
        """Every so many steps, or seconds: as the program says, else as the job does."""
        if steps is None and seconds is None:
            steps, seconds = self.spec.interval_steps, self.spec.interval_seconds
        return (steps, None) if steps is not None else (None, float(seconds or SECONDS))

    @property
    def since(self) -> int:
        """The first attempt whose checkpoints count."""
        return self.known.since_attempt if self.known else 1

    @property
    def ceiling(self) -> int | None:
        """Nothing newer may be resumed from."""
        return self.known.ceiling_step if self.known else None

    @property
    def later(self) -> Rules:
        """What holds for a second Session in one program, which has a past of its own, or none."""
        known = Known(since_attempt=self.since, ceiling_step=self.ceiling) if self.known else None
        return Rules(known, self.spec.model_copy(update={"resume": CheckpointSpec().resume}), self.spool)

    @property
    def source(self) -> Path | None:
        """The checkpoint to start from where there is none of our own."""
        resume = self.spec.resume
        named = resume.policy is ResumePolicy.FROM or (
            resume.policy is ResumePolicy.REQUIRED and resume.from_ is not None
        )
        return Path(resume.from_ or "") if named else None

    @property
    def artifact(self) -> str:
        """The name of `source`, where that is a version in the store; else nothing."""
        found = self.source
        return str(found) if found is not None and is_artifact(str(found)) else ""

    def missed(self, step: int) -> str:
        """What is said where training goes on from this step, and a newer one is recorded; else nothing."""
        past = self.known.expected if self.known else None
        bounded = past is not None and self.ceiling is not None and past.step > self.ceiling
        if past is None or bounded or past.step <= step:
            return ""
        which = f"that of step {past.step} of attempt {past.attempt}, which is recorded"
        return f"; {which}, is not to be had here"

    def lost(self, folder: Path, *, durable: bool) -> str:
        """No checkpoint of ours is in `folder`: what that costs, in words; empty when nothing is lost.

        Raises NothingToResume when training may not begin anew.
        """
        past = self.known.expected if self.known else None
        if past is not None and durable:
            raise NothingToResume(
                f"the checkpoint {past.digest[:12]} of attempt {past.attempt} at step {past.step} is "
                f"recorded for this job, but {folder} holds none: it was emptied, or is another folder. Put "
                f"it back; {OVER}"
            )
        if self.spec.resume.policy is ResumePolicy.REQUIRED and (past is not None or self.source is None):
            raise NothingToResume(_required(folder, past))
        if past is None:
            return ""
        return (
            f"the checkpoints of this job went with their pods: {past.step} steps are lost. A shared volume "
            "in spec.checkpoint.spool keeps them, and resume.policy: Required fails the job instead"
        )


def _required(folder: Path, past: Checkpoint | None) -> str:
    """Where was looked, and what to do."""
    said = f"spec.checkpoint.resume.policy: Required, and {folder} holds no checkpoint"
    if past is not None:
        return f"{said}; that of step {past.step} went with its pods. {OVER}"
    return (
        f"{said}, nor does spec.checkpoint.resume.from name one. A job's own folder is new with the job: "
        "name the checkpoint to start from in resume.from, or the folder that holds some in "
        "ml.Checkpoints(folder=...); or set policy: Auto"
    )


def read(env: Mapping[str, str]) -> Rules:
    """The rules in `env`. Raises Misconfigured."""
    return Rules(
        _known(env.get(names.ENV_RESUME)),
        _spec(env.get(names.ENV_CHECKPOINT)),
        _path(env, names.ENV_SPOOL),
        _path(env, names.ENV_COURIER),
    )


def _known(text: str | None) -> Known | None:
    try:
        return Known.model_validate_json(text) if text else None
    except ValueError as error:
        raise Misconfigured(f"{names.ENV_RESUME} makes no sense: {error}") from None


def _spec(text: str | None) -> CheckpointSpec:
    try:
        return CheckpointSpec.model_validate_json(text) if text else CheckpointSpec()
    except ValueError as error:
        raise Misconfigured(
            f"{names.ENV_CHECKPOINT} makes no sense to this version of mlenv: {error}"
        ) from None


def _path(env: Mapping[str, str], name: str) -> Path | None:
    text = env.get(name)
    return Path(text) if text else None
