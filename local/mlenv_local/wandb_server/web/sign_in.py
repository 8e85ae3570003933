"""The form that takes an API key. Pure."""

from __future__ import annotations

from pathlib import Path

from mlenv_local.wandb_server.web import frame, urls
from mlenv_local.wandb_server.web.markup import tag

STYLE_FILE = Path(__file__).parent / "style.css"


def form(wanted: str, problem: str = "") -> str:
    """The page with the form; `wanted` is where to go on afterwards."""
    entry = tag(
        "input", id="key", name="key", type="password", required="", autocomplete="current-password", size=44
    )
    return frame.page(
        "Sign in",
        tag("p", problem, class_="problem", role="alert") if problem else None,
        tag(
            "form",
            tag("label", "API key of this server", for_="key"),
            entry,
            tag("input", type="hidden", name="next", value=urls.after_sign_in(wanted)),
            tag("div", tag("button", "Sign in", type="submit")),
            method="post",
            action=urls.SIGN_IN,
            class_="sign",
        ),
        tag("p", tag("code", "mlenv local wandb key NAME"), " makes one, on the machine of the server."),
    )
