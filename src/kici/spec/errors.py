"""The root of our exceptions. Each class has a stable `code`; HTTP layers map `status` once."""

from typing import ClassVar


class KiciError(Exception):
    """Something that a caller can act on: `code` is stable, the message says what, why, what next.

    >>> try:
    ...     await ctx.sh("make")
    ... except KiciError as error:
    ...     ctx.log.error("%s: %s", error.code, error)
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500


class InvalidInput(KiciError):
    code: ClassVar[str] = "invalid_input"
    status: ClassVar[int] = 400


class NotFound(KiciError):
    code: ClassVar[str] = "not_found"
    status: ClassVar[int] = 404


class Conflict(KiciError):
    code: ClassVar[str] = "conflict"
    status: ClassVar[int] = 409
