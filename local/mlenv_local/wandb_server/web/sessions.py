"""Who looks at the page: a signed cookie that names an API key, and ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.wandb_server import accounts
from mlenv_local.wandb_server.errors import Forbidden, Unauthenticated

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.accounts import User
    from mlenv_local.wandb_server.signing import Signer

COOKIE = "mlenv_wandb_session"
LIFETIME = 12 * 3600
_METHOD = "SESSION"
"""No method of HTTP: a cookie is never good as a signed URL, and no URL as a cookie."""
_SHOWN = 16


def begin(db: sqlite3.Connection, signer: Signer, key: str) -> str:
    """The cookie's value for whoever has that API key; Unauthenticated if it is nobody's."""
    accounts.authenticate(db, key)
    digest = accounts.hash_key(key)
    row = db.execute("SELECT id FROM api_keys WHERE hash = ?", (digest,)).fetchone()
    # Ids of deleted keys are given again, so the id alone would not do.
    return signer.token(_METHOD, {"k": row["id"], "h": digest[:_SHOWN]}, LIFETIME)


def user(db: sqlite3.Connection, signer: Signer, cookie: str) -> User:
    """Whose cookie that is; Unauthenticated if it is not ours, too old, or its key was deleted."""
    try:
        claims = signer.check(_METHOD, cookie)
    except Forbidden as error:
        raise Unauthenticated("Sign in first.") from error
    query = (
        "SELECT users.*, api_keys.hash FROM api_keys JOIN users ON users.id = user_id WHERE api_keys.id = ?"
    )
    row = db.execute(query, (claims["k"],)).fetchone()
    if row is None or row["hash"][:_SHOWN] != claims["h"]:
        raise Unauthenticated("Sign in first.")
    return accounts.user_of(row)
