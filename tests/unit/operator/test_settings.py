from __future__ import annotations

import pytest

from mlenv_operator.settings import Settings, SettingsError

LEAST = {"POD_NAMESPACE": "mlenv-system", "POD_NAME": "op-1"}


def test_defaults() -> None:
    settings = Settings.from_environment(LEAST | {"PATH": "/bin", "MLENV_OPERATOR_WORKERS": " "})
    assert (settings.namespace, settings.pod_name, settings.workers) == ("mlenv-system", "op-1", 32)
    assert settings.lease_duration_s > settings.lease_renew_deadline_s
    assert settings.address == "http://127.0.0.1:8080"


def test_values_are_parsed() -> None:
    given = {
        "POD_IP": "fd00::7",
        "MLENV_OPERATOR_HTTP_PORT": "9090",
        "MLENV_OPERATOR_SWEEP_INTERVAL_S": "2.5",
        "MLENV_OPERATOR_LOG_LEVEL": "DEBUG",
    }
    settings = Settings.from_environment(LEAST | given)
    assert (settings.http_port, settings.sweep_interval_s, settings.log_level) == (9090, 2.5, "DEBUG")
    assert settings.address == "http://[fd00::7]:9090"


def test_all_mistakes_are_listed_together() -> None:
    wrong = {
        "MLENV_OPERATOR_WORKERS": "many",
        "MLENV_OPERATOR_API_TIMEOUT_S": "0",
        "MLENV_OPERATOR_SWEEP_INTERVAL_S": "nan",
        "MLENV_OPERATOR_LOG_FORMAT": "xml",
        "MLENV_OPERATOR_WROKERS": "3",
    }
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(wrong)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 + 7
    for part in (
        "POD_NAMESPACE must be set",
        "POD_NAME must be set",
        "MLENV_OPERATOR_WORKERS must be a whole number, not 'many'",
        "MLENV_OPERATOR_API_TIMEOUT_S must be at least 1",
        "MLENV_OPERATOR_SWEEP_INTERVAL_S must be at least 1, not nan",
        "MLENV_OPERATOR_LOG_FORMAT must be one of json, text",
        "MLENV_OPERATOR_WROKERS is no setting",
    ):
        assert part in message


def test_how_nodes_are_shared_and_which_labels_are_kept() -> None:
    assert Settings.from_environment(LEAST).kept_labels == ()
    given = {
        "MLENV_OPERATOR_LEDGER_SHARES": "weights=9/0.9/0.1",
        "MLENV_OPERATOR_LEDGER_LABELS": "cost-center, example.com/site,",
        "MLENV_OPERATOR_LEDGER_UNHELD": "idle",
    }
    settings = Settings.from_environment(LEAST | given)
    assert settings.kept_labels == ("cost-center", "example.com/site")
    assert (settings.ledger_shares, settings.ledger_unheld) == ("weights=9/0.9/0.1", "idle")
    with pytest.raises(SettingsError, match=r"LEDGER_SHARES: .*Use gpu-dominant, or weights="):
        Settings.from_environment(LEAST | {"MLENV_OPERATOR_LEDGER_SHARES": "fair"})
    with pytest.raises(SettingsError, match="LEDGER_UNHELD must be one of unattributed, idle"):
        Settings.from_environment(LEAST | {"MLENV_OPERATOR_LEDGER_UNHELD": "ours"})


def test_lease_timings_must_fit_together() -> None:
    with pytest.raises(SettingsError, match="RENEW_DEADLINE_S < DURATION_S"):
        Settings.from_environment(LEAST | {"MLENV_OPERATOR_LEASE_DURATION_S": "5"})


@pytest.mark.parametrize("service", ["MLENV_OPERATOR", "MLENV_OPERATOR_COSTS"])
def test_variables_that_kubernetes_adds_for_services_are_no_mistake(service: str) -> None:
    links = {f"{service}_SERVICE_HOST": "10.0.0.1", f"{service}_PORT_8081_TCP": "x", f"{service}_PORT": "y"}
    assert Settings.from_environment(LEAST | links).workers == 32
    del links[f"{service}_SERVICE_HOST"]
    with pytest.raises(SettingsError, match=f"{service}_PORT is no setting"):
        Settings.from_environment(LEAST | links)
