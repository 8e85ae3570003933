"""Which code a job runs, as git says and annotations carry it. Pure; what makes no sense is left out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlenv_api import names

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT: Final = 252
"""Characters of a remote or branch: a longer one would be cut somewhere, and be another one."""
ANNOTATIONS: Final = (
    names.ANNOTATION_GIT_COMMIT,
    names.ANNOTATION_GIT_REMOTE,
    names.ANNOTATION_GIT_BRANCH,
    names.ANNOTATION_GIT_DIRTY,
)
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
_HOST: Final = r"(?:[A-Za-z0-9.-]{2,}|\[[0-9A-Fa-f:.]+\])"
_URL: Final = re.compile(
    rf"(?P<scheme>https?|ssh|git|git\+ssh)://(?:[^/?#]*@)?(?P<host>{_HOST}(?::[0-9]+)?)(?P<path>/[^?#@]*)?"
    r"(?:[?#][^@]*)?"
)
_SCP: Final = re.compile(rf"(?:[^/]*@)?(?P<host>{_HOST}):(?P<path>[^:@?#\\][^@?#]*)")
_DIRTY: Final = {"true": True, "false": False}


class Code(NamedTuple):
    """A commit, and where it is from. What is not known is empty."""

    commit: str = ""
    """Its full hash, or how it begins."""
    remote: str = ""
    """Where it is from, without user, password, query and fragment."""
    branch: str = ""
    dirty: bool | None = None
    """Whether tracked files differed from the commit; null: nobody knows."""

    @classmethod
    def of(cls, annotations: Mapping[str, str]) -> Code:
        """What annotations say, whoever wrote them."""
        said = [annotations.get(one, "").strip() for one in ANNOTATIONS]
        commit, remote, branch, dirty = said
        return cls(
            commit=commit.lower() if _COMMIT.fullmatch(commit.lower()) else "",
            remote=without_secrets(remote),
            branch=branch if _plain(branch) else "",
            dirty=_DIRTY.get(dirty),
        )

    @property
    def annotations(self) -> dict[str, str]:
        """For a job: those that there is something to say in."""
        dirty = "" if self.dirty is None else str(self.dirty).lower()
        said = zip(ANNOTATIONS, (self.commit, self.remote, self.branch, dirty), strict=True)
        return {name: value for name, value in said if value}

    @property
    def config(self) -> dict[str, Any]:
        """For a run's config: what is known, by its own name."""
        return {name: value for name, value in self._asdict().items() if value not in ("", None)}


NO_CODE: Final = Code()


def without_secrets(remote: str) -> str:
    """Scheme, host and path of a remote; empty for a folder, and for what is no remote that we know.

    Nothing that could be a user, a token or a password is left: what stands before the host or behind the
    path goes, and an address with an @ elsewhere is none.
    """
    if not _plain(remote):
        return ""
    if (url := _URL.fullmatch(remote)) is not None:
        return f"{url['scheme']}://{url['host']}{url['path'] or ''}"
    found = None if "://" in remote else _SCP.fullmatch(remote)
    return f"{found['host']}:{found['path']}" if found else ""


def _plain(text: str) -> bool:
    """Whether this is one word that nobody has cut."""
    return 0 < len(text) <= MAX_TEXT and text.isprintable() and not any(one.isspace() for one in text)
