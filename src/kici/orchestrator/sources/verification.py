"""Is this delivery from whom it claims to be (OR-15, OR-16, OR-30, OR-40)? Pure; constant-time compares.

Secrets of every kind come as lists, so that a new one can be added before the old one goes.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

Method = Literal["hmac_sha256", "bearer_token", "api_key", "ip_allowlist", "none"]

HMAC_HEADER = "x-signature-256"


class HmacVerification(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="method", tag="hmac_sha256"
):
    """`<header>: sha256=<hex>` or bare hex, over the raw body."""

    secrets: list[str]
    header_name: str = HMAC_HEADER


class BearerVerification(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="method", tag="bearer_token"
):
    secrets: list[str]
    header_name: str = "authorization"


class ApiKeyVerification(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="method", tag="api_key"
):
    secrets: list[str]
    header_name: str


class AllowlistVerification(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="method", tag="ip_allowlist"
):
    """Addresses or CIDR ranges, compared with the socket's address."""

    allowlist: list[str]


class NoVerification(Struct, frozen=True, kw_only=True, rename="camel", tag_field="method", tag="none"):
    pass


Verification = (
    HmacVerification | BearerVerification | ApiKeyVerification | AllowlistVerification | NoVerification
)

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Verification).decode


def check(config: Verification) -> str | None:
    """What is wrong with a configuration; None when it can be used."""
    match config:
        case HmacVerification() | BearerVerification() | ApiKeyVerification():
            if not config.secrets or not all(config.secrets):
                return "a secret is needed and may not be empty"
            if not config.header_name:
                return "the name of the header is missing"
        case AllowlistVerification():
            if not config.allowlist:
                return "the allow-list is empty"
            for entry in config.allowlist:
                try:
                    ipaddress.ip_network(entry, strict=False)
                except ValueError:
                    return f"{entry!r} is neither an address nor a CIDR range"
        case NoVerification():
            pass
    return None


def verified_by(config: Verification | None) -> str | None:
    """What an accepted delivery was verified by, in the words of triggers (`auth`, OR-55)."""
    match config:
        case HmacVerification():
            return f"hmac:{config.header_name.lower()}"
        case BearerVerification() | ApiKeyVerification():
            return f"api_key:{config.header_name.lower()}"
        case _:
            return None


def refusal(
    config: Verification, *, headers: Mapping[str, str], body: bytes, client_ip: str | None
) -> str | None:
    """Why the delivery is not genuine, without secret material; None when it is. Header names are in
    lower case."""
    match config:
        case HmacVerification():
            given = headers.get(config.header_name.lower())
            if given is None:
                return f"the header {config.header_name} is missing"
            signature = given.strip().removeprefix("sha256=")
            return None if _signed(config.secrets, signature, body) else "the signature does not match"
        case BearerVerification():
            given = headers.get(config.header_name.lower())
            if given is None:
                return f"the header {config.header_name} is missing"
            scheme, _, token = given.strip().partition(" ")
            presented = token.strip() if scheme.lower() == "bearer" else given.strip()
            return None if _known(config.secrets, presented) else "the token is not valid"
        case ApiKeyVerification():
            given = headers.get(config.header_name.lower())
            if given is None:
                return f"the header {config.header_name} is missing"
            return None if _known(config.secrets, given.strip()) else "the key is not valid"
        case AllowlistVerification():
            return _allowed(config.allowlist, client_ip)
        case NoVerification():
            return None


def _signed(secrets: list[str], signature: str, body: bytes) -> bool:
    """Malformed hex is a plain mismatch (OR-30). Every secret is tried, whatever the first one says."""
    presented = signature.lower().encode()
    fits = False
    for secret in secrets:
        expected = hmac.digest(secret.encode(), body, hashlib.sha256).hex().encode()
        fits |= hmac.compare_digest(expected, presented)
    return fits


def _known(secrets: list[str], presented: str) -> bool:
    # Digests, because compare_digest tells lengths apart.
    digest = hashlib.sha256(presented.encode()).digest()
    fits = False
    for secret in secrets:
        fits |= hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), digest)
    return fits


def _allowed(allowlist: list[str], client_ip: str | None) -> str | None:
    if client_ip is None:
        return "the sender's address is not known"
    try:
        address = ipaddress.ip_address(client_ip)
    except ValueError:
        return "the sender's address is not known"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in ipaddress.ip_network(entry, strict=False) for entry in allowlist):
        return None
    return f"{client_ip} is not on the allow-list"


def is_loopback(client_ip: str | None) -> bool:
    if client_ip is None:
        return False
    try:
        address = ipaddress.ip_address(client_ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
