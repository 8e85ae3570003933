from __future__ import annotations

from mlenv_api import cel
from mlenv_api.cel import FORBIDDEN, Rule, frozen_unless_suspended
from mlenv_api.trainingjob import TrainingJobSpec

MANAGED_BY = "managedBy"


def test_a_rule_as_schema() -> None:
    assert Rule("a", "b", path=".c", reason=FORBIDDEN, expression="d").schema() == {
        "rule": "a",
        "message": "b",
        "fieldPath": ".c",
        "reason": FORBIDDEN,
        "messageExpression": "d",
    }


def test_every_field_of_a_job_is_mutable_or_guarded() -> None:
    guarded = {
        rule["fieldPath"].removeprefix(".")
        for rule in cel.TRAINING_JOB_SPEC[cel.VALIDATIONS]
        if rule["rule"].startswith("oldSelf.suspend")
    }
    fields = {field.alias for field in TrainingJobSpec.model_fields.values()}
    assert fields == guarded | cel.MUTABLE_WHILE_LIVE | {MANAGED_BY}
    assert not guarded & cel.MUTABLE_WHILE_LIVE


def test_optional_fields_may_neither_appear_nor_go() -> None:
    rule = frozen_unless_suspended("x", optional=True).rule
    assert rule == (
        "oldSelf.suspend || (!has(self.x) && !has(oldSelf.x))"
        " || (has(self.x) && has(oldSelf.x) && self.x == oldSelf.x)"
    )


def test_messages_are_single_lines_that_begin_small_and_have_no_full_stop() -> None:
    groups = (cel.ENV_VAR, cel.ENV_VAR_SOURCE, cel.POD_METADATA, cel.QUANTITY, cel.TRAINING_JOB_SPEC)
    for group in (*groups, cel.TRAINING_JOB, cel.MANAGED_BY_RULES):
        for rule in group[cel.VALIDATIONS]:
            assert "\n" not in rule["message"]
            assert not rule["message"].endswith(".")
            assert len(rule["message"]) <= 2048
