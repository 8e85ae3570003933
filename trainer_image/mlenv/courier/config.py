"""What a courier is to do, from its environment. Pure."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlenv.courier.errors import Unusable
from mlenv_api import names
from mlenv_api.gitcode import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = "checkpoints"
"""Beside the courier's own folder: where ranks seal."""
MARGIN_SECONDS: Final = 2.0
CODE: Final = {name: bool if name == "dirty" else str for name in Code._fields}


@dataclass(frozen=True, slots=True)
class Config:
    """One courier."""

    job: str
    uid: str
    node: int
    checkpoints: Path
    own: Path
    """Its own folder: pages, links to what is being carried, what is being brought, the client's files."""
    entity: str
    project: str
    url: str
    """Of the server; empty: the public one."""
    key_file: Path | None
    secret: str = ""
    """What the key's file comes from, in words."""
    idle: bool = False
    """Whether another pod's courier does it all: where pods share a volume, that of node 0."""
    grace: float = 30.0
    """Seconds from SIGTERM to SIGKILL."""
    namespace: str = ""
    image: str = ""
    """That of the trainer, as the job names it: a digest, where that was given."""
    code: dict[str, Any] = field(default_factory=dict)
    """What the job's annotations say of its code; nothing where there are none."""

    def key(self, env: Mapping[str, str]) -> str:
        """The API key, read anew each time: it may have been mended. Raises Unusable."""
        if self.key_file is None:
            return env.get("WANDB_API_KEY", "")
        try:
            found = self.key_file.read_text().strip()
        except FileNotFoundError:
            found = ""
        except OSError as error:
            raise Unusable(f"the API key in {self.key_file} cannot be read: {error.strerror}") from None
        if not found:
            raise Unusable(f"{self.secret or self.key_file} is not there, or empty")
        return found


def read(env: Mapping[str, str]) -> Config:
    """The courier described by `env`. Raises Unusable."""
    uid, own = env.get(names.ENV_JOB_UID, ""), env.get(names.ENV_COURIER, "")
    if not uid or not own:
        raise Unusable(f"{names.ENV_JOB_UID} and {names.ENV_COURIER} say what to carry, and one is not set")
    where = _wandb(env.get(names.ENV_WANDB, "{}"))
    if not where.get("entity") or not where.get("project"):
        raise Unusable(f'{names.ENV_WANDB} names no entity or project, as {{"entity": …, "project": …}}')
    node = _number(env, names.ENV_NODE_INDEX, 0)
    key = env.get(names.ENV_WANDB_KEY_FILE)
    return Config(
        job=env.get(names.ENV_JOB_NAME) or "job",
        uid=uid,
        node=node,
        checkpoints=Path(own).parent / FOLDER,
        own=Path(own),
        entity=where["entity"],
        project=where["project"],
        url=where.get("baseURL", ""),
        key_file=Path(key) if key else None,
        secret=_secret(where, env.get(names.ENV_JOB_NAMESPACE, "")),
        idle=bool(env.get(names.ENV_SPOOL)) and node != 0,
        grace=max(1.0, _number(env, names.ENV_TERMINATION_GRACE_SECONDS, 30) - MARGIN_SECONDS),
        namespace=env.get(names.ENV_JOB_NAMESPACE, ""),
        image=env.get(names.ENV_IMAGE, ""),
        code=_code(env.get(names.ENV_CODE, "")),
    )


def _wandb(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        raise Unusable(f"{names.ENV_WANDB} is no JSON") from None
    if not isinstance(found, dict):
        raise Unusable(f"{names.ENV_WANDB} is no JSON object")
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _code(text: str) -> dict[str, Any]:
    """No checkpoint waits for what is wrong there."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    said = found if isinstance(found, dict) else {}
    return {name: said[name] for name, kind in CODE.items() if isinstance(said.get(name), kind)}


def _secret(where: Mapping[str, str], namespace: str) -> str:
    if not where.get("secret"):
        return ""
    return f'key "{where.get("key", "")}" of Secret "{where["secret"]}" in namespace {namespace}'


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "").strip() or str(default)
    if not text.isascii() or not text.isdigit():
        raise Unusable(f"the variable {name} must be a whole number, not {text!r}")
    return int(text)


def current() -> Config:
    """That of this process."""
    return read(os.environ)
