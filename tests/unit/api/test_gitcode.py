"""What is told of a job's code is what git says, without anything that opens a door."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv_api import names
from mlenv_api.gitcode import ANNOTATIONS, NO_CODE, Code, without_secrets

COMMIT = "9f2c" * 10
SAID = {
    names.ANNOTATION_GIT_COMMIT: COMMIT,
    names.ANNOTATION_GIT_REMOTE: "https://git.example/ads/ranker.git",
    names.ANNOTATION_GIT_BRANCH: "feature/wide-and-deep",
    names.ANNOTATION_GIT_DIRTY: "false",
}


@pytest.mark.parametrize(("remote", "told"), [
    ("https://git.example/ads/ranker.git", "https://git.example/ads/ranker.git"),
    ("https://git.example:8443/ads/ranker", "https://git.example:8443/ads/ranker"),
    ("https://ada:s3cret@git.example/ads/ranker", "https://git.example/ads/ranker"),
    ("https://s3cret@git.example/ads/ranker", "https://git.example/ads/ranker"),
    ("https://ada:s3@cret@git.example/ads/ranker", "https://git.example/ads/ranker"),
    ("https://git.example/ads/ranker?token=s3cret#s3cret", "https://git.example/ads/ranker"),
    ("ssh://git@git.example:22/ads/ranker", "ssh://git.example:22/ads/ranker"),
    ("ssh://git@[2001:db8::7]:22/ads/ranker", "ssh://[2001:db8::7]:22/ads/ranker"),
    ("git@git.example:ads/ranker.git", "git.example:ads/ranker.git"),
    ("git.example:/srv/ranker", "git.example:/srv/ranker"),
    ("ada:s3cret@git.example:ads/ranker", "git.example:ads/ranker"),
    # What is no address of a server, and what may hide a secret where none belongs.
    ("https://ada:s3cret/x@git.example/ads/ranker", ""),
    ("https://ada:12/s3cret@git.example/ads/ranker", ""),
    ("https://s3cret?x@git.example/ads", ""),
    ("git@git.example:ads/s3cret@ranker", ""),
    ("ext::sh%20-c%20s3cret", ""),
    ("codecommit::eu-west-1://s3cret@ranker", ""),
    ("/home/ada/ranker", ""),
    ("../ranker", ""),
    ("file:///home/ada/ranker", ""),
    ("C:/ranker", ""),
    ("https://git.example/a b", ""),
    ("https://git.example/" + "a" * 300, ""),
    ("", ""),
])  # fmt: skip
def test_a_remote_is_told_without_secrets(remote: str, told: str) -> None:
    assert without_secrets(remote) == told
    assert without_secrets(told) == told, "what was told once is told again"


@given(st.text("abc:/@?#.\\[]%", max_size=12), st.sampled_from(["https://", "ssh://", "", "git+ssh://"]))
def test_nothing_before_an_at_is_ever_told(secret: str, scheme: str) -> None:
    assert "S3CRET" not in without_secrets(f"{scheme}{secret}S3CRET@git.example:7/ads/ranker")
    assert "S3CRET" not in without_secrets(f"{scheme}S3CRET{secret}@git.example/ads/ranker")


def test_what_annotations_say_comes_back() -> None:
    found = Code.of(SAID)
    assert found.annotations == SAID
    assert found.config == {
        "commit": COMMIT,
        "remote": "https://git.example/ads/ranker.git",
        "branch": "feature/wide-and-deep",
        "dirty": False,
    }


def test_without_annotations_there_is_nothing_to_tell() -> None:
    assert Code.of({"mlenv.io/user": "ada"}) == NO_CODE
    assert NO_CODE.annotations == NO_CODE.config == {}


@pytest.mark.parametrize("name", ANNOTATIONS)
@pytest.mark.parametrize("value", ["x" * 300, "two words\n", "\x00"])
def test_what_makes_no_sense_is_left_out(name: str, value: str) -> None:
    left = Code.of({**SAID, name: value})
    assert left.annotations == {key: said for key, said in SAID.items() if key != name}
