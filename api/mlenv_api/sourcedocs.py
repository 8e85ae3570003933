"""Docstrings under assignments (PEP 257's attribute docstrings), which Python itself does not keep."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def attribute_docs(owner: type | ModuleType) -> dict[str, str]:
    """Docstring of each documented attribute of a class or module, by name, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else tree.body
    found = {}
    for node, after in itertools.pairwise(body):
        name, text = _assigned(node), _text(after)
        if name and text:
            found[name] = " ".join(text.split())
    return found


def _assigned(node: ast.stmt) -> str | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else None


def _text(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return node.value.value if isinstance(node.value.value, str) else None
    return None
