"""Everything that can be set from outside, read once from the environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_operator.cost.shares import parse_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX: Final = "MLENV_OPERATOR_"


class SettingsError(ValueError):
    """The environment does not make sense; the message lists every mistake."""


def _from(
    default: Any = dataclasses.MISSING,
    *,
    env: str | None = None,
    least: float | None = None,
    among: tuple[str, ...] = (),
) -> Any:
    """A field with its limits; ``env`` is its variable where that is not the prefix and its name."""
    return field(default=default, metadata={"env": env, "least": least, "among": among})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the operator; units are in the names."""

    namespace: str = _from(env="POD_NAMESPACE")
    """Where the operator runs and its Lease lives."""
    pod_name: str = _from(env="POD_NAME")
    pod_ip: str = _from("127.0.0.1", env="POD_IP")
    """Address under which other pods reach this one."""
    kubeconfig: str = _from("", env="KUBECONFIG")
    """A kubeconfig file; empty means the service account of the pod."""

    http_host: str = _from("0.0.0.0")  # noqa: S104  (a server in a pod of its own)
    http_port: int = _from(names.OPERATOR_PORT, least=0)
    cost_port: int = _from(names.COST_PORT, least=0)
    """Where costs are told, when there is a ledger."""
    launcher_urls: str = _from("")
    """Base URLs, comma separated, that launchers try in turn; empty means this pod's own address."""

    lease_name: str = _from(names.LEASE_NAME)
    lease_duration_s: float = _from(15.0, least=1)
    lease_renew_deadline_s: float = _from(10.0, least=0.5)
    lease_retry_period_s: float = _from(2.0, least=0.1)

    workers: int = _from(32, least=1)
    """Jobs reconciled at a time."""
    sweep_interval_s: float = _from(180.0, least=1)
    """How often everything is listed, to find what no watch told."""
    failure_backoff_base_s: float = _from(1.0, least=0.01)
    failure_backoff_cap_s: float = _from(300.0, least=1)
    status_writes_per_s: float = _from(50.0, least=0.1)
    """Over all jobs, for status that only shows progress."""

    api_connections: int = _from(128, least=1)
    api_timeout_s: float = _from(30.0, least=1)

    token_audience: str = _from(names.TOKEN_AUDIENCE)
    token_reviews_per_s: float = _from(200.0, least=0.1)
    beats_per_s: float = _from(1000.0, least=1)
    """What all launchers together may send; sets how often each may."""

    ledger_dsn: str = _from("")
    """Where money is kept, as sqlite:////folder/file or postgresql://...; empty: nothing is accounted."""
    ledger_folder: str = _from("")
    """Where closed months go, and what counters showed last; the folder of a SQLite ledger unless set."""
    ledger_shares: str = _from("gpu-dominant")
    """By which policy nodes are shared: gpu-dominant, or weights=GPU/CPU/GIB; from the next hour on."""
    ledger_unheld: str = _from("unattributed", among=("unattributed", "idle"))
    """What the part of a healthy node is called that no job holds: idle where pods of others hold nothing."""
    ledger_labels: str = _from("")
    """More labels of jobs, comma separated, that charges keep as they were at the time."""

    price_file: str = _from("")
    """A price list in the format of the shipped ones, read again every few minutes; empty: none."""

    log_level: str = _from("INFO", among=("DEBUG", "INFO", "WARNING", "ERROR"))
    log_format: str = _from("json", among=("json", "text"))

    def __post_init__(self) -> None:
        """Check what one variable alone does not show."""
        retry, deadline, duration = (
            self.lease_retry_period_s,
            self.lease_renew_deadline_s,
            self.lease_duration_s,
        )
        if not retry * 1.2 < deadline < duration:
            raise SettingsError(
                f"{PREFIX}LEASE_*: 1.2 * RETRY_PERIOD_S < RENEW_DEADLINE_S < DURATION_S must hold, "
                f"not {retry:g}, {deadline:g}, {duration:g}"
            )
        try:
            parse_policy(self.ledger_shares)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}LEDGER_SHARES: {error}") from None

    @property
    def kept_labels(self) -> tuple[str, ...]:
        """Labels of jobs that charges keep beside those that mean something anyway."""
        return tuple(name for one in self.ledger_labels.split(",") if (name := one.strip()))

    @property
    def address(self) -> str:
        """Base URL of this replica, for the Lease and for 421 answers."""
        host = f"[{self.pod_ip}]" if ":" in self.pod_ip else self.pod_ip
        return f"http://{host}:{self.http_port}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the environment; raises SettingsError with every mistake in it, unknown variables included."""
        values: dict[str, Any] = {}
        mistakes = _unknown(environment)
        for one in dataclasses.fields(cls):
            try:
                if (value := _read(one, environment)) is not None:
                    values[one.name] = value
            except ValueError as error:
                mistakes.append(str(error))
        if mistakes:
            raise SettingsError("\n".join(["the environment of the operator is wrong:", *mistakes]))
        return cls(**values)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    known = {one.name: one.metadata["env"] for one in dataclasses.fields(Settings)}
    return known[name] or PREFIX + name.upper()


def _unknown(environment: Mapping[str, str]) -> list[str]:
    known = {variable_of(one.name) for one in dataclasses.fields(Settings)}
    # Kubernetes adds <SERVICE>_SERVICE_HOST, _PORT and more for every Service, and ours begin as settings do.
    host = "_SERVICE_HOST"
    services = [name.removesuffix(host) for name in environment if name.endswith(host)]
    links = tuple(f"{service}_{what}" for service in services for what in ("SERVICE_", "PORT"))
    return [
        f"- {name} is no setting; is it spelled right?"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known and not name.startswith(links)
    ]


def _read(one: dataclasses.Field[Any], environment: Mapping[str, str]) -> Any:
    name = variable_of(one.name)
    text = environment.get(name, "").strip()
    if not text:
        if one.default is dataclasses.MISSING:
            raise ValueError(f"- {name} must be set")
        return None
    return _checked(name, _parse(name, text, str(one.type)), one.metadata)


def _parse(name: str, text: str, type_: str) -> Any:
    kinds: dict[str, tuple[Callable[[str], Any], str]] = {
        "int": (int, "a whole number"),
        "float": (float, "a number"),
        "str": (str, "text"),
    }
    parse, words = kinds[type_]
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"- {name} must be {words}, not {text!r}") from None


def _checked(name: str, value: Any, limits: Mapping[str, Any]) -> Any:
    # Written so that NaN fails: it is neither small nor large.
    if limits["least"] is not None and not limits["least"] <= value < float("inf"):
        raise ValueError(f"- {name} must be at least {limits['least']:g}, not {value:g}")
    if limits["among"] and value not in limits["among"]:
        raise ValueError(f"- {name} must be one of {', '.join(limits['among'])}, not {value!r}")
    return value
