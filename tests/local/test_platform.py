"""What a local installation of the platform is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlenv_local import LocalError
from mlenv_local.images.runtime import RUNTIME_IMAGE, describe
from mlenv_local.platform import chart_values, check_readable


def test_jobs_get_this_machines_python_and_the_mounted_folders() -> None:
    runtime = describe([Path("/usr"), Path("/home/me/.venv")], Path("/home/me/.venv"))
    values = chart_values(runtime, "0.1.0-abc", {"/data": Path("/home/me/data")})
    (environment,) = values["environments"]
    spec = environment["spec"]["podTemplate"]["spec"]
    assert environment["name"] == "local"
    assert environment["spec"]["image"] == RUNTIME_IMAGE
    assert environment["spec"]["launcherCommand"][0] == "/home/me/.venv/bin/python"
    assert [mount["mountPath"] for mount in spec["volumeMounts"]] == ["/usr", "/home/me/.venv", "/data"]
    assert all(mount["readOnly"] for mount in spec["volumeMounts"])
    assert [volume["name"] for volume in spec["volumes"]] == [mount["name"] for mount in spec["volumeMounts"]]


def test_the_images_are_never_pulled() -> None:
    values = chart_values(describe([], Path("/v")), "0.1.0-abc", {})
    assert values["image"]["pullPolicy"] == "Never"
    assert values["image"]["tag"] == "0.1.0-abc"
    assert values["environments"][0]["spec"]["imagePullPolicy"] == "Never"


def test_the_environment_may_say_more() -> None:
    tracking = {"tracking": {"wandb": {"project": "demo"}}}
    values = chart_values(describe([], Path("/v")), "0.1.0-abc", {}, tracking)
    (environment,) = values["environments"]
    assert environment["spec"]["tracking"] == tracking["tracking"]
    assert environment["spec"]["image"] == RUNTIME_IMAGE


def test_a_checkout_that_others_may_not_read_is_told_before_anything_is_built(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(LocalError, match=f"chmod -R o.rX {tmp_path}"):
        check_readable([Path("/usr"), tmp_path])
    tmp_path.chmod(0o755)
    check_readable([tmp_path])
