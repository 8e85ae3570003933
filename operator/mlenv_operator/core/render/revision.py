"""The snapshot of an environment as a ControllerRevision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_api import names

if TYPE_CHECKING:
    from mlenv_api.podtemplate import EnvironmentSpec


def render_revision(
    namespace: str, environment_uid: str, generation: int, spec: EnvironmentSpec
) -> dict[str, Any]:
    """The manifest: named by its content, shared by the jobs of a namespace, owned by nobody."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": names.revision_name(environment_uid, generation),
            "namespace": namespace,
            "labels": {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE},
        },
        "revision": generation,
        "data": {"spec": spec.wire()},
    }
