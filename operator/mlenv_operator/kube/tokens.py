"""TokenReview and SubjectAccessReview: asking the API server whose token this is, and what they may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_operator.kube.resources import ACCESS_REVIEWS, TOKEN_REVIEWS

if TYPE_CHECKING:
    from mlenv_operator.kube.client import Client


async def review_token(client: Client, token: str, audience: str) -> dict[str, Any]:
    """The status of the TokenReview. Writes nothing, hence passes no gate. Raises ApiError."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    answer = await client.ungated().create(TOKEN_REVIEWS, body)
    status: dict[str, Any] = answer.get("status") or {}
    return status


async def may(client: Client, spec: dict[str, Any]) -> bool:
    """Whether the SubjectAccessReview of this spec allows it. Writes nothing. Raises ApiError."""
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = await client.ungated().create(ACCESS_REVIEWS, body)
    return bool((answer.get("status") or {}).get("allowed"))
