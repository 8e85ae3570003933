from __future__ import annotations

import orjson
import pytest

from mlenv_operator.kube import errors


def made(code: int, reason: str = "", message: str = "no", **details: object) -> errors.ApiError:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return errors.from_answer(code, orjson.dumps(body), {}, "create pods ns/a")


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", errors.BadRequest),
        (401, "Unauthorized", errors.Unauthorized),
        (404, "NotFound", errors.NotFound),
        (405, "MethodNotAllowed", errors.BadRequest),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (413, "RequestEntityTooLarge", errors.BadRequest),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.Throttled),
        (500, "InternalError", errors.Internal),
        (502, "", errors.Internal),
        (503, "ServiceUnavailable", errors.Unavailable),
        (504, "Timeout", errors.ServerTimeout),
    ],
)
def test_each_code_has_its_class(code: int, reason: str, expected: type[errors.ApiError]) -> None:
    error = made(code, reason)
    assert type(error) is expected
    assert (error.code, error.reason, error.message) == (code, reason, "no")
    assert str(error) == f"create pods ns/a: no ({code} {reason})".replace(" )", ")")


# Messages as real API servers write them.
QUOTA = 'pods "a" is forbidden: exceeded quota: gpus, requested: limits.cpu=1, used: …, limited: limits.cpu=8'
MUST = 'pods "a" is forbidden: failed quota: gpus: must specify limits.cpu for: trainer'
SECURITY = 'pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true (…)'
WEBHOOK = 'admission webhook "validate.kyverno.svc" denied the request: no image from there'
VAP = "jobs \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
ACCOUNT = 'pods "a" is forbidden: error looking up service account n/a: serviceaccount "a" not found'
RANGE = 'pods "a" is forbidden: maximum cpu usage per Container is 1, but limit is 2'
RBAC = 'pods is forbidden: User "a:b" cannot create resource "pods" in API group "" in the namespace "n"'


@pytest.mark.parametrize(
    ("code", "message", "policy"),
    [
        (403, QUOTA, errors.Policy.QUOTA),
        (403, MUST, errors.Policy.QUOTA),
        (403, SECURITY, errors.Policy.POD_SECURITY),
        (403, WEBHOOK, errors.Policy.WEBHOOK),
        (400, WEBHOOK, errors.Policy.WEBHOOK),
        (422, VAP, errors.Policy.ADMISSION_POLICY),
        (403, ACCOUNT, errors.Policy.SERVICE_ACCOUNT),
        (403, RANGE, errors.Policy.OTHER),
    ],
)
def test_policies_are_told_apart(code: int, message: str, policy: errors.Policy) -> None:
    error = made(code, "Forbidden", message)
    assert isinstance(error, errors.RejectedByPolicy)
    assert error.policy is policy


def test_rbac_is_no_policy_and_a_webhook_that_cannot_be_called_is_transient() -> None:
    assert type(made(403, "Forbidden", RBAC)) is errors.Forbidden
    failed = made(500, "InternalError", 'Internal error occurred: failed calling webhook "x": refused')
    assert type(failed) is errors.Internal


def test_a_terminating_namespace() -> None:
    error = made(403, "Forbidden", "unable to create", causes=[{"reason": "NamespaceTerminating"}])
    assert type(error) is errors.NamespaceTerminating


def test_causes_of_an_invalid_object() -> None:
    error = made(
        422, "Invalid", causes=[{"field": "spec.x", "message": "must be 1", "reason": "FieldValueInvalid"}]
    )
    assert isinstance(error, errors.Invalid)
    assert error.causes == (("spec.x", "must be 1"),)


def test_retry_after_from_the_header_or_the_details() -> None:
    throttled = errors.from_answer(429, b"{}", {"Retry-After": "3"}, "")
    assert isinstance(throttled, errors.Transient)
    assert throttled.retry_after_s == 3
    detailed = made(503, retryAfterSeconds=2)
    assert isinstance(detailed, errors.Transient)
    assert detailed.retry_after_s == 2
    odd = errors.from_answer(429, b"{}", {"Retry-After": "Wed, 21 Oct"}, "")
    assert isinstance(odd, errors.Transient)
    assert odd.retry_after_s == 0


def test_bodies_that_are_no_status() -> None:
    assert errors.from_answer(502, b"<html>bad gateway", {}, "x").message == "<html>bad gateway"
    assert errors.from_answer(500, b"", {}, "x").message == "no message"
    assert errors.from_answer(500, b"[1]", {}, "x").code == 500
    assert errors.from_status({"code": 410, "reason": "Expired", "message": "old"}, "watch").code == 410
