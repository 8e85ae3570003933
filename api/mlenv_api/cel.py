"""CEL rules as metadata of the models: what the API server checks beyond types and ranges.

Every rule has a sentence that a user of kubectl understands. Rules that show a value in their error use
``FieldValueForbidden`` or ``FieldValueRequired``: those reasons do not print the value, which may be secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mlenv_api.names import MAX_JOB_NAME, OPEN_ENV, RESERVED_ENV, RESERVED_ENV_PREFIXES

INVALID: Final = "FieldValueInvalid"
FORBIDDEN: Final = "FieldValueForbidden"
REQUIRED: Final = "FieldValueRequired"

VALIDATIONS: Final = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: true means valid. Either ``message`` or ``expression`` (CEL that makes the message)."""

    rule: str
    message: str
    path: str = ""
    """Field below the one that carries the rule, as ``.image``; errors name it."""
    reason: str = INVALID
    expression: str = ""

    def schema(self) -> dict[str, str]:
        """The rule as an entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.rule, "message": self.message, "reason": self.reason}
        if self.path:
            entry["fieldPath"] = self.path
        if self.expression:
            entry["messageExpression"] = self.expression
        return entry


def rules(*entries: Rule) -> dict[str, Any]:
    """The rules as extra schema of a model or a field."""
    return {VALIDATIONS: [entry.schema() for entry in entries]}


def quoted(words: tuple[str, ...]) -> str:
    """A CEL list of strings."""
    return "[" + ", ".join(f"'{word}'" for word in words) + "]"


def frozen_unless_suspended(field: str, *, optional: bool) -> Rule:
    """``field`` of the spec can be edited only while the job is suspended."""
    same = f"self.{field} == oldSelf.{field}"
    if optional:
        both = f"has(self.{field}) && has(oldSelf.{field}) && {same}"
        same = f"(!has(self.{field}) && !has(oldSelf.{field})) || ({both})"
    return Rule(
        rule=f"oldSelf.suspend || {same}",
        message=f"{field} can be edited only while the job is suspended: set spec.suspend to true first",
        path=f".{field}",
        reason=FORBIDDEN,
    )


def _reserved_env() -> Rule:
    names = tuple(sorted(RESERVED_ENV))
    free = quoted(tuple(sorted(OPEN_ENV)))
    prefixes = " || ".join(f"self.name.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES)
    which = f"{', '.join(names)} and all that begin with {', '.join(RESERVED_ENV_PREFIXES)}"
    return Rule(
        rule=f"self.name in {free} || !(self.name in {quoted(names)} || {prefixes})",
        message=f"the platform sets this variable itself; reserved are {which}: choose another name",
        path=".name",
        reason=FORBIDDEN,
        expression=(
            f"self.name + ' is set by the platform itself; reserved are {which}: choose another name'"
        ),
    )


def _exactly_one(first: str, second: str, what: str) -> tuple[Rule, Rule]:
    """Two rules, since the API server names a field and a reason per rule."""
    return (
        Rule(
            rule=f"!(has(self.{first}) && has(self.{second}))",
            message=f"{what} takes {first} or {second}, not both: remove one",
            path=f".{second}",
            reason=FORBIDDEN,
        ),
        Rule(
            rule=f"has(self.{first}) || has(self.{second})",
            message=f"{what} needs {first} or {second}",
            path=f".{first}",
            reason=REQUIRED,
        ),
    )


ENV_VAR: Final = rules(_reserved_env(), *_exactly_one("value", "valueFrom", "an environment variable"))
ENV_VAR_SOURCE: Final = rules(*_exactly_one("secretKeyRef", "configMapKeyRef", "valueFrom"))

_OWN_METADATA: Final = (
    "k.startsWith('mlenv.io/') || k == 'app.kubernetes.io/name' || k == 'app.kubernetes.io/managed-by'"
)
POD_METADATA: Final = rules(
    *(
        Rule(
            rule=f"!has(self.{field}) || self.{field}.all(k, !({_OWN_METADATA}))",
            message=(
                f"{field} app.kubernetes.io/name, app.kubernetes.io/managed-by and all under mlenv.io/ belong"
                " to the platform: choose other keys"
            ),
            path=f".{field}",
            reason=FORBIDDEN,
        )
        for field in ("labels", "annotations")
    )
)

QUANTITY: Final = rules(
    Rule(
        rule=(
            "type(self) == int ? self >= 0"
            " : isQuantity(string(self)) && !quantity(string(self)).isLessThan(quantity('0'))"
        ),
        message="a quantity is a number that is not negative, as 4, 500m or 16Gi",
    )
)

MANAGED_BY_RULES: Final = rules(
    Rule(
        rule="self == oldSelf",
        message="managedBy is immutable: delete the job and create it anew",
        reason=FORBIDDEN,
    )
)

MUTABLE_WHILE_LIVE: Final = frozenset(
    {"suspend", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "failurePolicy", "cost"}
)
"""Fields of a TrainingJob's spec that can be edited at any time; managedBy never; others while suspended."""

RESUME: Final = rules(
    Rule(
        rule="!has(self.policy) || self.policy != 'From' || has(self.from)",
        message="policy: From needs the folder of a checkpoint in from",
        path=".from",
        reason=REQUIRED,
    ),
    Rule(
        rule=(
            "(has(self.policy) && self.policy in ['From', 'Required'])"
            " || !(has(self.from) || has(self.things))"
        ),
        message="from and things are read with policy: From or Required: set one of these, or remove them",
        path=".policy",
    ),
)
CHECKPOINT: Final = rules(
    Rule(
        rule="!(has(self.intervalSeconds) && has(self.intervalSteps))",
        message="checkpoint takes intervalSeconds or intervalSteps, not both: remove one",
        path=".intervalSteps",
        reason=FORBIDDEN,
    ),
)

PRICE_MATCH: Final = rules(
    Rule(
        rule="!has(self.zone) || size(self.zone) == 0 || (has(self.region) && size(self.region) > 0)",
        message="a zone needs its region: set region",
        path=".region",
        reason=REQUIRED,
    ),
    Rule(
        rule=(
            "!has(self.capacityType) || self.capacityType != 'capacity-block'"
            " || (has(self.reservation) && size(self.reservation) > 0)"
        ),
        message="the price of a capacity block was fixed when it was bought: name the block in reservation",
        path=".reservation",
        reason=REQUIRED,
    ),
)
PRICE: Final = rules(
    *(
        Rule(
            rule=f"!has(self.{field}) || self.{field}.matches('[1-9]')",
            message="a price is more than 0: remove the row of a machine whose price is not known",
            path=f".{field}",
        )
        for field in ("perHour", "listPerHour")
    ),
    Rule(
        rule="!has(self.to) || self.to > self.from",
        message="a price ends after it begins",
        path=".to",
    ),
)

COST_LIMIT: Final = rules(
    Rule(
        rule="self.limit.matches('[1-9]')",
        message="a limit is more than 0: remove spec.cost to have none, or set suspend to hold the job back",
        path=".limit",
    ),
)

BUDGET: Final = rules(
    Rule(
        rule="has(self.team) || has(self.useCase)",
        message="a budget is of a team, of a use case, or of one use case of a team: set team or useCase",
        path=".team",
        reason=REQUIRED,
    ),
    Rule(
        rule="self.amountUSD.matches('[1-9]')",
        message="an amount is more than 0: delete the Budget to have none",
        path=".amountUSD",
    ),
)

TRAINING_JOB_SPEC: Final = rules(
    frozen_unless_suspended("environmentRef", optional=True),
    frozen_unless_suspended("launcher", optional=False),
    frozen_unless_suspended("trainer", optional=False),
    frozen_unless_suspended("podTemplateOverrides", optional=True),
    frozen_unless_suspended("scheduling", optional=False),
    frozen_unless_suspended("checkpoint", optional=True),
    frozen_unless_suspended("tracking", optional=True),
    Rule(
        rule="has(self.environmentRef) || has(self.trainer.image)",
        message="an image is needed: set trainer.image, or name an environment in environmentRef",
        path=".trainer.image",
        reason=REQUIRED,
    ),
    Rule(
        rule=(
            "self.launcher != 'MLEnv' || (has(self.trainer.command) && size(self.trainer.command) > 0)"
            " || (has(self.trainer.args) && size(self.trainer.args) > 0)"
        ),
        message=(
            "a program is needed: set trainer.command, as [train.py]; or launcher: None to run what the image"
            " starts by itself"
        ),
        path=".trainer.command",
        reason=REQUIRED,
    ),
)

TRAINING_JOB: Final = rules(
    Rule(
        rule=f"size(self.metadata.name) <= {MAX_JOB_NAME}",
        message=(
            f"the name of a TrainingJob has at most {MAX_JOB_NAME} characters, because its pods are named"
            " <job>-<index>-<incarnation>: choose a shorter one"
        ),
        path=".metadata.name",
    ),
    Rule(
        rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message=(
            "the name of a TrainingJob begins with a letter, ends with a letter or digit, and has only"
            " lower-case letters, digits and dashes, because its Service and host names are made of it"
        ),
        path=".metadata.name",
    ),
)
"""Rules at the root of the object: the only place where CEL sees metadata.name."""
