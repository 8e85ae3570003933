"""Manifests: read from files, written as YAML and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mlenv_sdk.errors import InvalidManifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_sdk.resources import TrainingJob


def load(file: str) -> dict[str, Any]:
    """The one object in a YAML or JSON file, or on standard input for ``-``."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except OSError as error:
        raise InvalidManifest(f"The file {file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"The file {file} is no YAML: {_one_line(error)}.") from None
    if len(documents) != 1:
        raise InvalidManifest(f"The file {file} holds {len(documents)} objects: submit takes exactly one.")
    if not isinstance(documents[0], dict):
        raise InvalidManifest(f"The file {file} holds no object but a {type(documents[0]).__name__}.")
    return documents[0]


def as_yaml(jobs: Sequence[TrainingJob], *, single: bool) -> str:
    """The jobs as YAML; several as a stream of documents."""
    documents = [job.wire() for job in (jobs[:1] if single else jobs)]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True).rstrip()


def as_json(jobs: Sequence[TrainingJob], *, single: bool) -> str:
    """The jobs as JSON; several as an array."""
    documents = [job.wire() for job in jobs]
    return json.dumps(documents[0] if single else documents, indent=2, ensure_ascii=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
