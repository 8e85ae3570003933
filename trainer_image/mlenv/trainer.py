"""A loop for those who want none of their own. Everything in it is a Session and plain callables."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor, nn

from mlenv import resume
from mlenv.ckpt import rng
from mlenv.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlenv.job import Job

    Loss = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
    Evaluation = Callable[[nn.Module], Mapping[str, float | Tensor]]
    Clip = float | Callable[[Iterable[nn.Parameter]], Tensor]

Precision = Literal["bf16", "fp16"]
TYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains `net` for so many optimizer `steps`, and goes on from its checkpoints.

    `loss(net, batch)` gives the loss, or several values of which "loss" is the one to go down; all are
    reported. `opt` is an optimizer or several, built after the model is in its final form; `schedule` steps
    with it. `accumulate` batches make one step. `clip` is the largest norm of the gradient, or a function of
    the parameters that clips and returns the norm. `precision` runs `loss` under autocast ("fp16" with a
    GradScaler). `evaluate=(function, n)` calls ``function(net)`` every n steps and at the end, in eval mode,
    without gradients; training draws the same random numbers with it and without. `more` is kept in
    checkpoints, too. `fit` is short: copy it when you need another loop.
    """

    def __init__(
        self,
        job: Job,
        *,
        net: nn.Module,
        opt: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        loss: Loss,
        data: Iterable[Any],
        steps: int,
        clip: Clip | None = None,
        accumulate: int = 1,
        precision: Precision | None = None,
        schedule: Any = None,
        evaluate: tuple[Evaluation, int] | None = None,
        checkpoint: resume.Checkpoints | None = resume.AUTO,
        report_every: float = 2.0,
        **more: Any,
    ) -> None:
        if accumulate < 1 or (evaluate is not None and evaluate[1] < 1):
            raise ValueError("accumulate and the second part of evaluate=(function, every) are at least 1")
        if precision is not None and precision not in TYPES:
            raise ValueError(
                f"precision={precision!r}: one of {', '.join(TYPES)}, or None for the model's own"
            )
        self.job, self.net, self.loss, self.data = job, net, loss, data
        self.opts = list(opt) if isinstance(opt, Sequence) else [opt]
        self.steps, self.clip, self.accumulate, self.evaluate = steps, clip, accumulate, evaluate
        self.precision, self.schedule = precision, schedule
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=precision == "fp16")
        self._options: Mapping[str, Any] = {"checkpoint": checkpoint, "report_every": report_every}
        self._more = more

    def fit(self) -> Session:
        """Train up to `steps`; the Session tells how far it came."""
        evaluated = 0
        self._forget()
        with Session(self.job, **self._options, **self._things()) as run:
            for count, batch in enumerate(run.steps(self.steps), 1):
                if self._evaluates(run, evaluated):
                    evaluated = self._evaluate(run)
                last = count % self.accumulate == 0
                with self._alone(last), self._autocast():
                    values = self._values(batch)
                    self.scaler.scale(values["loss"] / self.accumulate).backward()
                if last:
                    run.commit(**values, **self._step())
            if self.evaluate and run.step > evaluated:
                self._evaluate(run)
        return run

    # -- the parts of a step

    def _values(self, batch: Any) -> Mapping[str, Any]:
        found = self.loss(self.net, moved(batch, self.job.device))
        values = found if isinstance(found, Mapping) else {"loss": found}
        if "loss" not in values:
            raise ValueError(f'the loss function gave {", ".join(values)}: one of them must be called "loss"')
        return values

    def _step(self) -> Mapping[str, Any]:
        for opt in self.opts:
            self.scaler.unscale_(opt)
        norms = self._clipped()
        for opt in self.opts:
            self.scaler.step(opt)
        self.scaler.update()
        self._forget()
        if self.schedule is not None:
            self.schedule.step()
        return norms

    def _forget(self) -> None:
        for opt in self.opts:
            opt.zero_grad()

    def _clipped(self) -> Mapping[str, Any]:
        if self.clip is None:
            return {}
        if callable(self.clip):
            return {"grad_norm": self.clip(self.net.parameters())}
        return {"grad_norm": nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)}

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        kind = TYPES.get(self.precision or "")
        return torch.autocast(self.job.device.type, dtype=kind, enabled=kind is not None)

    def _alone(self, last: bool) -> contextlib.AbstractContextManager[Any]:  # noqa: FBT001
        """Ranks tell each other of their gradients once a step, not once a batch."""
        no_sync = getattr(self.net, "no_sync", None)
        return contextlib.nullcontext() if last or no_sync is None else no_sync()

    # -- what is kept, and what is looked at

    def _things(self) -> dict[str, Any]:
        opts = {f"opt{number or ''}": opt for number, opt in enumerate(self.opts)}
        maybe = {
            "schedule": self.schedule,
            "scaler": self.scaler if self.precision == "fp16" else None,
        }
        kept = {name: thing for name, thing in maybe.items() if thing is not None}
        return {"net": self.net, "data": self.data, **opts, **kept, **self._more}

    def _evaluates(self, run: Session, evaluated: int) -> bool:
        # Before a step, because after a restart training goes on there.
        return self.evaluate is not None and run.step > evaluated and run.step % self.evaluate[1] == 0

    def _evaluate(self, run: Session) -> int:
        assert self.evaluate is not None
        training, generators = self.net.training, rng.capture()
        run.poll()
        self.net.eval()
        with run.evaluating(), torch.no_grad():
            run.log(**self.evaluate[0](self.net))
        self.net.train(training)
        rng.restore(generators)
        return run.step


def moved(batch: Any, device: torch.device) -> Any:
    """`batch` on `device`: tensors, what has a ``to`` of its own, and both in dicts, lists and tuples."""
    if device.type == "cpu":
        return batch
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: moved(one, device) for name, one in batch.items()}
    if isinstance(batch, list | tuple):
        items = [moved(one, device) for one in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch
