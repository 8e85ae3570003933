from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlenv_local import needs
from mlenv_local.needs import CLUSTER_TOOLS, IMAGE_TOOLS, KERNEL, OPTIONAL_KERNEL, Facts, explain, judge, look

GOOD = Facts(
    linux=True,
    root=True,
    tools=frozenset({**CLUSTER_TOOLS, **IMAGE_TOOLS}),
    cni=Path("/usr/lib/cni"),
    kernel=frozenset({*KERNEL, *OPTIONAL_KERNEL}),
    free_bytes=100 * 2**30,
)


def test_a_machine_with_everything_lacks_nothing() -> None:
    assert judge(GOOD, images=True) == []


@pytest.mark.parametrize(("tool", "package"), {**CLUSTER_TOOLS, **IMAGE_TOOLS}.items())
def test_a_missing_program_is_named_with_its_package(tool: str, package: str) -> None:
    (missing,) = [m for m in judge(replace(GOOD, tools=GOOD.tools - {tool}), images=True) if m.package]
    assert missing.package == package
    assert tool in missing.sentence
    assert package in missing.sentence


def test_tools_for_images_are_asked_for_only_when_images_are_built() -> None:
    assert judge(replace(GOOD, tools=frozenset(CLUSTER_TOOLS))) == []


@pytest.mark.parametrize("word", KERNEL)
def test_a_missing_kernel_feature_is_a_sentence(word: str) -> None:
    (missing,) = judge(replace(GOOD, kernel=GOOD.kernel - {word}))
    assert missing.sentence == f"The kernel lacks {KERNEL[word]}."


@pytest.mark.parametrize("word", OPTIONAL_KERNEL)
def test_optional_kernel_features_stop_nobody(word: str) -> None:
    assert judge(replace(GOOD, kernel=GOOD.kernel - {word})) == []


def test_without_the_tools_that_look_the_kernel_is_not_accused() -> None:
    facts = replace(GOOD, tools=GOOD.tools - {"nft"}, kernel=frozenset())
    assert [m.package for m in judge(facts)] == ["nftables"]


@pytest.mark.parametrize(
    ("facts", "word"), [(replace(GOOD, linux=False), "Linux"), (replace(GOOD, root=False), "sudo")]
)
def test_without_linux_or_root_only_that_is_said(facts: Facts, word: str) -> None:
    (missing,) = judge(replace(facts, tools=frozenset(), kernel=frozenset()))
    assert word in missing.sentence
    assert "--kubeconfig" in missing.sentence


def test_a_full_disk_is_said_in_gibibytes() -> None:
    (missing,) = judge(replace(GOOD, free_bytes=3 * 2**30))
    assert "3.0 GiB free" in missing.sentence


def test_the_explanation_ends_with_the_command_that_helps() -> None:
    missing = judge(replace(GOOD, tools=frozenset({"ip", "nft", "unshare", "nsenter", "mount"}), cni=None))
    last = explain(missing).splitlines()[-1]
    assert "--yes" in last
    assert last.endswith("apt-get install containerd containernetworking-plugins runc")


def test_looking_at_this_machine_gives_facts() -> None:
    facts = look()
    assert facts.linux
    assert facts.free_bytes > 0


def test_prometheus_is_found_where_it_was_unpacked_and_only_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(needs, "SYSTEM_PATH", "")
    folder = tmp_path / "mlenv" / "debian" / needs.PROMETHEUS_PACKAGE / "usr" / "bin"
    folder.mkdir(parents=True)
    for tool in needs.PROMETHEUS_TOOLS:
        assert needs.prometheus() is None
        (folder / tool).touch(mode=0o755)
    assert needs.prometheus() == folder
