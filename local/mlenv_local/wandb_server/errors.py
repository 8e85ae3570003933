"""What can go wrong, as sentences: the client shows them to its user verbatim."""

from __future__ import annotations


class ServerError(Exception):
    """A sentence for the user; becomes a GraphQL error or the body of an HTTP answer with that status."""

    status = 400


class NotFound(ServerError):
    """There is no such thing, or this user must not know of it."""

    status = 404


class Forbidden(ServerError):
    """This user may not do that."""

    status = 403


class Unauthenticated(ServerError):
    """No API key, or one that nobody has."""

    status = 401


class Refused(ServerError):
    """The request contradicts what is stored or itself."""

    status = 400


class TooLarge(ServerError):
    """More than fits into memory."""

    status = 413


class Conflict(ServerError):
    """Somebody else was first."""

    status = 409
