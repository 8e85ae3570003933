"""The environment of the client's process: nothing but this errand, in folders of its own. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDERS: Final = (
    "WANDB_DIR",
    "WANDB_CACHE_DIR",
    "WANDB_DATA_DIR",
    "WANDB_CONFIG_DIR",
    "WANDB_ARTIFACT_DIR",
)
QUIET: Final = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_SAVE_REQUIREMENTS": "false",
    # What the machine does is to be told, so there is no WANDB_X_DISABLE_MACHINE_INFO; and the machine is
    # not what the courier may take of it.
    "WANDB_X_STATS_NO_CGROUP": "true",
    "WANDB_INIT_TIMEOUT": "60",
    # The client tries again a little, for what passes in seconds; all else is our own patience.
    "WANDB_X_GRAPHQL_RETRY_MAX": "3",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "10",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "3",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "10",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "3",
    # Rows come in batches, and each is waited for.
    "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
}


CODE: Final = {"commit": "WANDB_GIT_COMMIT", "remote": "WANDB_GIT_REMOTE_URL"}
"""What of the job's code the client has names for; it looks for no repository."""


def environment(
    base: Mapping[str, str], folder: Path, key: str, url: str, code: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """What the client sees: proxies and certificates of `base`, none of its other W&B settings."""
    inherited = _authorities({name: value for name, value in base.items() if not name.startswith("WANDB_")})
    folders = {name: str(folder / name.lower()) for name in FOLDERS}
    where = {"WANDB_BASE_URL": url} if url else {}
    git = {CODE[one]: said for one, said in (code or {}).items() if one in CODE}
    return {**inherited, "HOME": str(folder), **QUIET, **folders, **where, **git, "WANDB_API_KEY": key}


def _authorities(env: Mapping[str, str]) -> dict[str, str]:
    """With the same certificates for both halves of the client.

    The one in Go heeds SSL_CERT_FILE, and the one in Python, which downloads, REQUESTS_CA_BUNDLE alone.
    """
    go, python = env.get("SSL_CERT_FILE"), env.get("REQUESTS_CA_BUNDLE")
    named = {"SSL_CERT_FILE": go or python, "REQUESTS_CA_BUNDLE": python or go}
    return {**env, **{name: value for name, value in named.items() if value}}
