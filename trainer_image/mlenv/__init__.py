"""MLEnv: the training environment inside the pods. The loop stays yours.

Names are loaded when first used: the launcher, PID 1 of every pod, imports this package and must not pay
for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlenv import data
    from mlenv.ckpt.checkpointer import Checkpointer
    from mlenv.commandline import entry
    from mlenv.data.stream import Stream
    from mlenv.dist import wrap
    from mlenv.job import Job, init
    from mlenv.resume import Checkpoints
    from mlenv.sanity.rules import Sanity
    from mlenv.session import Session
    from mlenv.trainer import Trainer

__version__: Final = "0.1.0"
__all__ = [
    "Checkpointer",
    "Checkpoints",
    "Job",
    "Sanity",
    "Session",
    "Stream",
    "Trainer",
    "__version__",
    "data",
    "entry",
    "init",
    "wrap",
]

_HOMES: Final = {
    "Checkpointer": "mlenv.ckpt.checkpointer",
    "Checkpoints": "mlenv.resume",
    "Job": "mlenv.job",
    "Sanity": "mlenv.sanity.rules",
    "Session": "mlenv.session",
    "Stream": "mlenv.data.stream",
    "Trainer": "mlenv.trainer",
    "entry": "mlenv.commandline",
    "init": "mlenv.job",
    "wrap": "mlenv.dist",
}


def __getattr__(name: str) -> Any:
    if name == "data":
        return import_module("mlenv.data")
    if name not in _HOMES:
        raise AttributeError(f"module 'mlenv' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
