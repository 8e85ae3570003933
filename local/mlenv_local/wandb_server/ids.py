"""GraphQL ids: base64 of `Type:key`, because the client decodes some of them."""

from __future__ import annotations

import base64
import binascii

from mlenv_local.wandb_server.errors import NotFound


def make(kind: str, key: int | str) -> str:
    """The id of a row."""
    return base64.b64encode(f"{kind}:{key}".encode()).decode()


def parse(kind: str, text: str) -> str:
    """The key in an id of that kind; NotFound for anything else."""
    try:
        found, _, key = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        found, key = "", ""
    if found != kind or not key:
        raise NotFound(f"{text!r} is not the id of a {kind} on this server")
    return key


def parse_int(kind: str, text: str) -> int:
    """The row number in an id of that kind; NotFound for anything else."""
    key = parse(kind, text)
    if not key.isdecimal():
        raise NotFound(f"{text!r} is not the id of a {kind} on this server")
    return int(key)


def kind(text: str) -> str:
    """Which type an id of this server is of."""
    return base64.b64decode(text).decode().partition(":")[0]
