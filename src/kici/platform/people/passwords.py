"""argon2id, and which passwords are refused (PD-43). The library loads on first use."""

import asyncio
from functools import cache
from typing import Any

from kici.spec.errors import InvalidInput

MIN_CHARS = 12
MAX_CHARS = 1024

# Well-known passwords that are long enough to pass the length rule, lower case.
_COMMON = frozenset(
    """
    123456789012 1234567890123 12345678901234 123456789123 0123456789012 111111111111 000000000000
    passwordpassword password1234 password12345 password123456 password123! password1234! mypassword123
    changemechangeme changeme1234 letmeinletmein letmein12345 welcome12345 welcome123456 adminadminadmin
    administrator administrator1 administrator123 admin1234567 rootrootroot qwertyuiop12 qwertyuiop123
    qwertyuiopasdf qwertyqwerty qwerty123456 qwerty1234567 qwertyuiop[] 1q2w3e4r5t6y 1qaz2wsx3edc
    1qaz2wsx3edc4rfv q1w2e3r4t5y6 zaq12wsxcde3 asdfghjkl123 asdfasdfasdf abcdefghijkl abc123abc123
    abcd1234abcd iloveyou1234 iloveyouforever iloveyousomuch monkey123456 dragon123456 football1234
    baseball1234 superman1234 batman123456 starwars1234 pokemon12345 sunshine1234 princess1234
    trustno1trustno1 whatever1234 correcthorsebatterystaple secretsecret secret123456 test12341234
    testtesttest passw0rd1234 p@ssw0rd1234 p@ssword1234 kicikicikici
    """.split()  # noqa: SIM905  a block of words reads better than a column of quotes
)
_work = asyncio.Semaphore(2)  # each hash takes 64 MiB and a core for a moment


@cache
def _hasher() -> Any:
    import argon2

    return argon2.PasswordHasher()


@cache
def _nobody() -> str:
    """Verified when the account does not exist, so that both answers take the same time."""
    return _hasher().hash("nobody has this password")


def require_good(password: str, *, email: str) -> None:
    if len(password) < MIN_CHARS:
        raise InvalidInput(f"a password needs at least {MIN_CHARS} characters")
    if len(password) > MAX_CHARS:
        raise InvalidInput(f"a password has at most {MAX_CHARS} characters")
    plain = password.lower()
    if plain in _COMMON or len(set(plain)) < 4 or plain == email.lower():
        raise InvalidInput("this password is too easy to guess: choose another one")


async def hash_password(password: str) -> str:
    async with _work:
        return await asyncio.to_thread(lambda: _hasher().hash(password))


def _verify(stored: str | None, password: str) -> bool:
    import argon2

    try:
        return _hasher().verify(stored or _nobody(), password) and stored is not None
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


async def verify_password(stored: str | None, password: str) -> bool:
    """False for a wrong password and, after the same work, for no account."""
    async with _work:
        return await asyncio.to_thread(_verify, stored, password[: MAX_CHARS + 1])
