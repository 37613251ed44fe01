"""`kici verify-attestation`: does a provenance bundle vouch for this file (SE-79)?"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from kici.cli.errors import FAILED, errors_as_exit_codes
from kici.cli.output import emit
from kici.spec.errors import InvalidInput, KiciError

if TYPE_CHECKING:
    from kici.engine.provenance import TrustRoot

app = typer.Typer(add_completion=False)

_CHUNK = 1 << 20


class Unreadable(KiciError):
    code: ClassVar[str] = "bundle_unreadable"


@app.command("verify-attestation")
def verify_attestation(
    bundle: Annotated[str, typer.Option(metavar="PATH|URL", help="The provenance bundle.")],
    artifact: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Its digest must be attested.")
    ] = None,
    trust_root: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="An issuer's URL, or a file {issuer, jwks}. Default: the Platform you are signed in to.",
        ),
    ] = None,
    audience: Annotated[str | None, typer.Option(help="Must be the statement's audience.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Check signature, issuer, build context and digest of a provenance bundle. Exit 1 unless all pass.

    The issuer that a bundle names is never trusted; yours is.

    Example: kici verify-attestation dist/app.whl --bundle app.whl.kici.json --trust-root root.json
    """
    with errors_as_exit_codes():
        from kici.engine import provenance

        root = _trust_root(trust_root)
        digest = _digest(artifact) if artifact is not None else None
        found = provenance.verify(_read(bundle), root, artifact_sha256=digest, audience=audience)
        if as_json:
            emit(found)
        elif found.verified:
            context = found.context
            print(f"PASS provenance verified (issuer {found.issuer})")
            print(f"  {context['repository']} {context['ref']} @ {context['commit']}")
            print(f"  run {context['runId']} job {context['jobId']}")
            for check in found.checks:
                if check.verdict == "skipped":
                    print(f"  {check.name} skipped: {check.reason}")
        else:
            reasons = "; ".join(
                check.reason or check.name for check in found.checks if check.verdict == "fail"
            )
            print(f"FAIL {artifact or bundle}: {reasons}", file=sys.stderr)
        if not found.verified:
            raise SystemExit(FAILED)


def _digest(path: Path) -> str:
    from kici.engine.provenance import sha256_of

    try:
        with path.open("rb") as file:
            return sha256_of(iter(lambda: file.read(_CHUNK), b""))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None


def _read(place: str) -> bytes:
    """A file's bytes, or what a URL answers."""
    from kici.engine.provenance import MAX_BUNDLE_BYTES

    if place.startswith(("https://", "http://")):
        import httpx

        try:
            response = httpx.get(place, timeout=30, follow_redirects=False, trust_env=False)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise Unreadable(f"{place}: {error}") from None
        return response.content
    try:
        with open(place, "rb") as file:
            return file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"{place}: {error.strerror}") from None


def _trust_root(given: str | None) -> "TrustRoot":
    import msgspec

    from kici.cli.client import find_target
    from kici.engine.provenance import TrustRoot

    if given is not None and not given.startswith(("https://", "http://")):
        try:
            return msgspec.json.decode(_read(given), type=TrustRoot)
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"{given} is no trust root {{issuer, jwks}}: {error}") from None
    issuer = (given or find_target().platform_url).rstrip("/")
    try:
        discovered = msgspec.json.decode(_read(f"{issuer}/.well-known/openid-configuration"), type=dict)
        jwks = msgspec.json.decode(_read(str(discovered["jwks_uri"])), type=dict)
    except (msgspec.MsgspecError, KeyError) as error:
        raise Unreadable(
            f"{issuer} publishes no signing keys ({error}); give --trust-root a file with {{issuer, jwks}}"
        ) from None
    return TrustRoot(issuer=issuer, jwks=jwks)
