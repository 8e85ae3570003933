"""Service-account tokens signed with a local cluster's own key: for tests and load, never for users.

A kubelet asks the API server for one token at a time; a test that plays a thousand launchers, or one that was
given an expired token, makes its own.
"""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

if TYPE_CHECKING:
    from collections.abc import Mapping

ISSUER: Final = "https://kubernetes.default.svc"


def mint(
    key_pem: bytes,
    *,
    namespace: str,
    service_account: str,
    service_account_uid: str,
    pod: str,
    pod_uid: str,
    audience: str,
    lifetime_s: int = 3600,
    issuer: str = ISSUER,
) -> str:
    """A token as the kubelet projects it into a pod, bound to it. A negative lifetime makes it expired."""
    now = int(time.time())
    claims = {
        "aud": [audience],
        "exp": now + lifetime_s,
        "iat": now - max(0, -lifetime_s) * 2,
        "nbf": now - max(0, -lifetime_s) * 2,
        "iss": issuer,
        "sub": f"system:serviceaccount:{namespace}:{service_account}",
        "kubernetes.io": {
            "namespace": namespace,
            "pod": {"name": pod, "uid": pod_uid},
            "serviceaccount": {"name": service_account, "uid": service_account_uid},
        },
    }
    return sign(key_pem, claims)


def sign(key_pem: bytes, claims: Mapping[str, Any]) -> str:
    """A JSON Web Token (RS256) with these claims."""
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("service-account tokens of a local cluster are signed with an RSA key")
    head = {"alg": "RS256", "typ": "JWT"}
    text = b".".join(_encode(json.dumps(part).encode()) for part in (head, claims))
    signature = key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    return (text + b"." + _encode(signature)).decode()


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
