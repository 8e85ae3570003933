"""Generated files are what the generators make of the models now."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlenv_api import conditions, crd, exitcodes, names, reference
from mlenv_api.trainingjob import Phase

ROOT = Path(__file__).parents[2]
PAGE = reference.render()


def test_crds_and_the_charts_copies_are_current() -> None:
    assert crd.sync(ROOT, crd.files(), check=True) == [], "run `python -m mlenv_api.crd`"


def test_there_are_no_other_crds() -> None:
    for folder in ("crds", "helm/mlenv/templates/crds"):
        found = {str(path.relative_to(ROOT)) for path in (ROOT / folder).iterdir()}
        assert found == {path for path in crd.files() if path.startswith(folder)}


def test_the_reference_is_current() -> None:
    assert crd.sync(ROOT, reference.files(), check=True) == [], "run `python -m mlenv_api.reference`"


def _fields(node: dict[str, object]) -> set[str]:
    found = set()
    properties = node.get("properties")
    for name, child in properties.items() if isinstance(properties, dict) else ():
        found |= {name} | _fields(child)
    for key in ("items", "additionalProperties"):
        child = node.get(key)
        found |= _fields(child) if isinstance(child, dict) else set()
    return found


@pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.kind)
def test_the_reference_mentions_every_field(kind: crd.Kind) -> None:
    root = crd.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        missing = [name for name in _fields(root.get(part, {})) if f"`{name}`" not in PAGE]
        assert not missing


def test_the_reference_mentions_every_constant() -> None:
    prefixes = ("LABEL_", "ANNOTATION_", "ENV_", "ACCOUNTED_")
    wanted = [value for name, value in vars(names).items() if name.startswith(prefixes)]
    for enum in (conditions.ConditionType, conditions.Reason, exitcodes.ExitCode, Phase):
        wanted += [member.value for member in enum]
    wanted += [*names.RESERVED_ENV, *names.RESERVED_ENV_PREFIXES]
    values = {"mlenv-operator", "trainingjob"}  # of the two labels that never change
    assert not [value for value in wanted if f"`{value}`" not in PAGE and value not in values]


def test_everything_in_a_table_has_a_meaning() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert not [row for row in rows if row.endswith("|  |")]
