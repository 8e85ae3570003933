"""Names that no wrapper changes, and what an optimizer keeps, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_faults import Run
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from mlenv.ckpt import things
from mlenv.ckpt.checkpointer import Checkpointer
from mlenv.ckpt.errors import NothingToResume, StateInvalid

if TYPE_CHECKING:
    from pathlib import Path


def test_wrappers_do_not_change_names() -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    wrapped: Any = torch.compile(nn.Sequential(checkpoint_wrapper(nn.Linear(2, 2)), nn.Linear(2, 1)))
    assert things.collect({"net": plain}).tensors.keys() == things.collect({"net": wrapped}).tensors.keys()


def test_a_module_called_module_keeps_its_name() -> None:
    net = nn.ModuleDict({"module": nn.Linear(2, 1)})
    assert set(things.collect({"net": net}).tensors) == {"net.module.weight", "net.module.bias"}


def test_two_tensors_of_one_name_are_refused() -> None:
    one, two = nn.ModuleDict({"b": nn.Linear(1, 1)}), nn.Linear(1, 1)
    with pytest.raises(StateInvalid, match=r"two tensors would be called a\.b\.weight"):
        things.collect({"a": one, "a.b": two})


def resumed(tmp_path: Path, build: Any) -> tuple[Any, Any]:
    """What `build` gives after three steps and a save, and a new one after a restore."""
    known = build()
    ck = Checkpointer(tmp_path / "ck", say=lambda _: None, **known)
    for _ in range(3):
        sum(weight.sum() * weight.sum() for weight in known["net"].parameters()).backward()
        known["opt"].step()
    ck.save(3)
    ck.close()
    fresh = build()
    with Checkpointer(tmp_path / "ck", say=lambda _: None, **fresh) as again:
        assert again.restore().step == 3
    return known, fresh


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: torch.optim.SGD(ps, 0.1),
        lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9),
        lambda ps: torch.optim.Adagrad(ps, 0.1),
        lambda ps: torch.optim.RMSprop(ps, 0.1, centered=True),
        lambda ps: torch.optim.Adam(ps, 0.1, amsgrad=True),
        torch.optim.Adafactor,
        torch.optim.LBFGS,
    ],
    ids=["sgd", "momentum", "adagrad", "rmsprop", "amsgrad", "adafactor", "lbfgs-without-a-step"],
)
def test_optimizers_come_back(tmp_path: Path, make: Any) -> None:
    def build() -> dict[str, Any]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        opt = make(net.parameters())
        if isinstance(opt, torch.optim.LBFGS):
            opt.step = lambda: None  # it wants a closure: that it has no state yet is what is tried
        return {"net": net, "opt": opt}

    known, fresh = resumed(tmp_path, build)
    left, right = known["opt"].state_dict(), fresh["opt"].state_dict()
    assert left["param_groups"] == right["param_groups"]
    assert left["state"].keys() == right["state"].keys()
    for number, entries in left["state"].items():
        for key, value in entries.items():
            other = right["state"][number][key]
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other))


def test_states_finer_than_their_parameters_lose_no_bit(tmp_path: Path) -> None:
    """torch's load_state_dict casts them to the parameter's dtype."""

    def build() -> dict[str, Any]:
        torch.manual_seed(0)
        net = nn.Linear(3, 4).bfloat16()
        return {"net": net, "opt": Fine(net.parameters())}

    known, fresh = resumed(tmp_path, build)
    for left, right in zip(known["net"].parameters(), fresh["net"].parameters(), strict=True):
        one, other = known["opt"].state[left]["sum"], fresh["opt"].state[right]["sum"]
        assert (one.dtype, torch.equal(one, other)) == (torch.float32, True)


class Fine(torch.optim.Optimizer):
    """Keeps a sum of gradients in float32."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                kept = self.state[weight].setdefault("sum", torch.zeros(weight.shape))
                kept += weight.grad.float() / 3


def test_other_parameter_groups_are_told(tmp_path: Path) -> None:
    run = Run(tmp_path / "ck")
    run.ck.save(1)
    run.ck.close()
    net = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 1))
    opt = torch.optim.Adam([{"params": net[0].parameters()}, {"params": net[1].parameters()}])
    with pytest.raises(NothingToResume, match=r"opt: parameter groups of \[3\] parameters in the checkpoint"):
        Checkpointer(tmp_path / "ck", say=lambda _: None, net=net, opt=opt).restore()


def test_extra_state_of_modules_comes_back(tmp_path: Path) -> None:
    class Counts(nn.Linear):
        seen = 0

        def get_extra_state(self) -> Any:
            return {"seen": self.seen, "table": torch.tensor([self.seen])}

        def set_extra_state(self, state: Any) -> None:
            assert int(state["table"]) == state["seen"]
            self.seen = state["seen"]

    net = Counts(1, 1)
    net.seen = 7
    with Checkpointer(tmp_path / "ck", say=lambda _: None, net=net) as ck:
        ck.save(1)
    fresh = Counts(1, 1)
    with Checkpointer(tmp_path / "ck", say=lambda _: None, net=fresh) as ck:
        ck.restore()
    assert fresh.seen == 7


def test_what_cannot_be_kept_is_told_at_the_first_save(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> Any:
            return {"queue": object()}

        def load_state_dict(self, state: Any) -> None: ...

    with (
        Checkpointer(tmp_path / "ck", say=lambda _: None, odd=Odd()) as ck,
        pytest.raises(
            StateInvalid, match=r"odd\.queue is a builtins\.object, which a checkpoint cannot keep"
        ),
    ):
        ck.save(1)
