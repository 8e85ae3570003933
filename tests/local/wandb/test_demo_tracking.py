"""Where the demo's job is tracked: what its environment says of it, and where the key is."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from worlds import raw_job

from mlenv.courier import config, quiet
from mlenv_api import names
from mlenv_api.podtemplate import EnvironmentSpec
from mlenv_local.images.runtime import describe
from mlenv_local.platform import chart_values
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.render import courier
from mlenv_operator.core.render.effective import effective

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from tasks import demo_wandb
from tasks.process import TaskError

if TYPE_CHECKING:
    from wandb_server import Server

KEY = "0123456789abcdef" * 2 + "01234567"


def theirs(**environ: str) -> demo_wandb.Tracking:
    """What comes of these variables, the key among them."""
    found = demo_wandb.theirs({"WANDB_API_KEY": KEY, **environ})
    assert found is not None
    return found


def environment_of(tracking: demo_wandb.Tracking) -> dict[str, Any]:
    """What the chart is given for the environment of jobs."""
    values = chart_values(describe([], Path("/v")), "0.1.0-abc", {}, tracking.environment())
    found: dict[str, Any] = values["environments"][0]["spec"]
    return found


def test_a_key_of_the_real_service_is_all_that_it_takes_to_go_there() -> None:
    found = theirs(WANDB_ENTITY="ads")
    assert found.page == "https://wandb.ai/ads/mlenv-demo"
    raw = environment_of(found)
    wandb = EnvironmentSpec.model_validate(raw).tracking
    assert wandb is not None
    assert wandb.wandb is not None
    assert (wandb.wandb.base_url, wandb.wandb.entity) == (None, "ads")


@pytest.mark.parametrize("environ", [{}, {"WANDB_API_KEY": " "}, {"WANDB_BASE_URL": "https://wandb.example"}])
def test_without_a_key_it_is_not_the_service(environ: dict[str, str]) -> None:
    assert demo_wandb.theirs(environ) is None


def test_couriers_then_ask_the_client_s_own_address_with_the_key_of_the_secret() -> None:
    found = theirs(WANDB_ENTITY="ads")
    job = parse_job(raw_job())
    assert job.spec is not None
    what = effective(job.spec, EnvironmentSpec.model_validate(environment_of(found)))
    assert what.wandb is not None
    made = courier.container(job, what, what.wandb, 0)
    seen = config.read({one["name"]: str(one.get("value", "")) for one in made["env"]})
    client = quiet.environment({}, Path("client"), KEY, seen.url)
    assert "WANDB_BASE_URL" not in client
    assert (seen.entity, seen.project) == ("ads", "mlenv-demo")
    (volume,) = [one["secret"] for one in courier.volumes(what.wandb) if "secret" in one]
    secret = found.secret("default")
    assert volume["secretName"] == secret["metadata"]["name"]
    assert base64.b64decode(secret["data"][volume["items"][0]["key"]]).decode() == KEY
    assert f"{names.WANDB_KEY_DIR}/{volume['items'][0]['path']}" == str(seen.key_file)


def test_the_key_is_in_the_secret_and_nowhere_else() -> None:
    found = theirs(WANDB_ENTITY="ads")
    shown = [repr(found), found.page, json.dumps(environment_of(found))]
    coded = base64.b64encode(KEY.encode()).decode()
    assert [text for text in shown if KEY in text or coded in text] == []


def test_variables_of_the_client_mean_what_they_always_do() -> None:
    found = theirs(WANDB_ENTITY="ads", WANDB_PROJECT="mine", WANDB_BASE_URL="https://wandb.example/")
    assert found.page == "https://wandb.example/ads/mine"
    assert found.environment()["tracking"]["wandb"]["baseURL"] == "https://wandb.example"
    assert theirs(WANDB_ENTITY="ads", WANDB_BASE_URL="https://api.wandb.ai").base_url == ""


def test_without_an_entity_the_server_says_whose_key_it_is(shared: Server, shared_key: str) -> None:
    found = theirs(WANDB_API_KEY=shared_key, WANDB_BASE_URL=shared.url)
    assert (found.entity, found.project) == ("ada", "mlenv-demo")


def test_a_key_that_is_not_accepted_is_told_without_it(shared: Server) -> None:
    with pytest.raises(TaskError, match="WANDB_API_KEY") as caught:
        theirs(WANDB_BASE_URL=shared.url)
    assert KEY not in str(caught.value)


def test_a_server_that_is_away_is_told() -> None:
    with pytest.raises(TaskError, match="cannot be asked whose it is"):
        theirs(WANDB_BASE_URL="http://127.0.0.1:9")
