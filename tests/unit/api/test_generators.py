from __future__ import annotations

import re
import sys
from enum import StrEnum
from typing import TYPE_CHECKING

import pytest
import yaml

from mlenv_api import crd, names
from mlenv_api.sourcedocs import attribute_docs

if TYPE_CHECKING:
    from pathlib import Path


class Shape(StrEnum):
    ROUND = "Round"
    """Has no
    corners."""
    SQUARE = "Square"


def test_attribute_docstrings_are_found_on_one_line() -> None:
    assert attribute_docs(Shape) == {"ROUND": "Has no corners."}


def test_attribute_docstrings_of_a_module() -> None:
    assert attribute_docs(names)["ANNOTATION_INDEX"].startswith("On pods")


def test_the_chart_keeps_the_definition_only_when_told() -> None:
    text = crd.chart_template("kind: X\nmetadata:\n  name: x\nspec: {}\n")
    assert text == (
        "{{- if .Values.crds.install }}\nkind: X\nmetadata:\n  {{- if .Values.crds.keep }}\n  annotations:\n"
        "    helm.sh/resource-policy: keep\n  {{- end }}\n  name: x\nspec: {}\n{{- end }}\n"
    )


def test_what_helm_would_run_is_refused() -> None:
    with pytest.raises(ValueError, match="Helm would run"):
        crd.chart_template("metadata:\n  description: '{{ x }}'\n")


def test_sync_writes_only_what_differs(tmp_path: Path) -> None:
    wanted = {"a/b.txt": "one\n", "c.txt": "two\n"}
    (tmp_path / "c.txt").write_text("two\n")
    assert crd.sync(tmp_path, wanted, check=True) == ["a/b.txt"]
    assert not (tmp_path / "a").exists()
    assert crd.sync(tmp_path, wanted, check=False) == ["a/b.txt"]
    assert crd.sync(tmp_path, wanted, check=True) == []


def test_check_fails_when_a_file_is_stale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--check"])
    assert crd.command({"no/such/file": ""}, "mlenv_api.crd") == 1
    assert capsys.readouterr().out == "stale, run `python -m mlenv_api.crd`: no/such/file\n"
    assert crd.command(crd.files(), "mlenv_api.crd") == 0


@pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.kind)
def test_a_definition(kind: crd.Kind) -> None:
    body = yaml.safe_load(crd.files()[f"crds/{kind.plural}.yaml"])
    assert body == crd.definition(kind)
    version = body["spec"]["versions"][0]
    assert "categories" not in body["spec"]["names"]
    assert ("status" in version.get("subresources", {})) is (kind.status is not None)


def test_columns_and_selectors_name_scalar_fields() -> None:
    for kind in crd.KINDS:
        root = crd.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for path in [column.path for column in kind.columns] + list(kind.selectable):
            node = root
            for step in re.sub(r"\[\?\([^)]*\)\]", ".items", path).strip(".").split("."):
                if step == "items":
                    node = node["items"]
                    continue
                if node.get("properties", {}).keys() == {"name"}:
                    break  # metadata, whose fields are the API server's
                node = node["properties"][step]
            else:
                assert node["type"] in {"string", "integer", "boolean"}, path
