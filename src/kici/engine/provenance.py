"""Is this build-provenance bundle genuine, and is it about this file (SE-75, SE-76, SE-78, SE-79)? Pure.

A bundle is a DSSE envelope around an in-toto statement, signed with ES256 by the issuer. The issuer that a
bundle names is never trusted: keys come from a trust root that the verifier holds.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct, field

BUNDLE_MEDIA_TYPE = "application/vnd.kici.provenance.bundle+json;version=0.2"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
MAX_BUNDLE_BYTES = 1 << 20

Verdict = Literal["pass", "fail", "skipped"]


class Signature(Struct, frozen=True, kw_only=True):
    sig: str  # base64 of r ‖ s, 32 bytes each
    keyid: str = ""


class Envelope(Struct, frozen=True, kw_only=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[Signature]


class Material(Struct, frozen=True, kw_only=True):
    kid: str
    issuer: str
    timestamp: str = ""


class Bundle(Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str
    dsse_envelope: Envelope
    verification_material: Material


class Subject(Struct, frozen=True, kw_only=True):
    name: str
    digest: dict[str, str]


class Statement(Struct, frozen=True, kw_only=True, rename="camel"):
    type: str = field(name="_type")
    subject: list[Subject]
    predicate_type: str
    predicate: dict[str, Any]


class TrustRoot(Struct, frozen=True, kw_only=True):
    """`{issuer, jwks}`: whose statements count, and with which keys they are signed."""

    issuer: str
    jwks: dict[str, Any]


class Check(Struct, frozen=True, kw_only=True):
    name: str  # schema | signature | issuer | build_context | digest
    verdict: Verdict
    reason: str | None = None


class Verification(Struct, frozen=True, kw_only=True, rename="camel"):
    """`verified` only when no check failed and the signature was really checked."""

    verified: bool
    checks: list[Check]
    issuer: str
    context: dict[str, str]  # repository, ref, commit, runId, jobId, where the statement has them


def verify(
    bundle: bytes, root: TrustRoot, *, artifact_sha256: str | None = None, audience: str | None = None
) -> Verification:
    """Total. Without a digest the statement is judged, and `digest` is skipped."""
    checks: list[Check] = []

    def ended(context: Mapping[str, str]) -> Verification:
        good = all(check.verdict != "fail" for check in checks)
        return Verification(
            verified=good and any(c.name == "signature" and c.verdict == "pass" for c in checks),
            checks=checks,
            issuer=root.issuer,
            context=dict(context),
        )

    try:
        if len(bundle) > MAX_BUNDLE_BYTES:
            raise ValueError(f"the bundle is larger than {MAX_BUNDLE_BYTES} bytes")
        parsed = msgspec.json.decode(bundle, type=Bundle)
        if parsed.media_type != BUNDLE_MEDIA_TYPE:
            raise ValueError(f"media type {parsed.media_type!r} is not {BUNDLE_MEDIA_TYPE!r}")
        if parsed.dsse_envelope.payload_type != PAYLOAD_TYPE:
            raise ValueError(f"payload type {parsed.dsse_envelope.payload_type!r} is not {PAYLOAD_TYPE!r}")
        payload = base64.b64decode(parsed.dsse_envelope.payload, validate=True)
    except (msgspec.MsgspecError, ValueError, binascii.Error) as error:
        checks.append(_failed("schema", f"bundle_schema_invalid: {error}"))
        return ended({})
    try:
        statement = msgspec.json.decode(payload, type=Statement)
        if statement.type != STATEMENT_TYPE or statement.predicate_type != PREDICATE_TYPE:
            raise ValueError(f"{statement.type} with {statement.predicate_type} is not SLSA provenance v1")
    except (msgspec.MsgspecError, ValueError) as error:
        checks.append(_failed("schema", f"statement_schema_invalid: {error}"))
        return ended({})
    checks.append(Check(name="schema", verdict="pass"))
    checks.append(_signature(parsed, payload, root))
    checks.append(
        Check(name="issuer", verdict="pass")
        if parsed.verification_material.issuer == root.issuer
        else _failed(
            "issuer", f"signed for {parsed.verification_material.issuer}, the trust root is {root.issuer}"
        )
    )
    context, wrong = _build_context(statement, root.issuer, audience)
    checks.append(_failed("build_context", wrong) if wrong else Check(name="build_context", verdict="pass"))
    checks.append(_digest(statement, artifact_sha256))
    return ended(context)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sha256_of(chunks: Any) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _failed(name: str, reason: str) -> Check:
    return Check(name=name, verdict="fail", reason=reason)


def _signature(bundle: Bundle, payload: bytes, root: TrustRoot) -> Check:
    kid = bundle.verification_material.kid
    key = _key(root, kid)
    if key is None:
        return _failed("signature", f"the trust root has no P-256 key {kid!r}")
    signed = pre_authentication_encoding(PAYLOAD_TYPE, payload)
    for signature in bundle.dsse_envelope.signatures:
        try:
            raw = base64.b64decode(signature.sig, validate=True)
            if len(raw) != 64:
                continue
            der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
            key.verify(der, signed, ec.ECDSA(SHA256()))
        except (InvalidSignature, binascii.Error, ValueError):
            continue
        return Check(name="signature", verdict="pass")
    return _failed("signature", "dsse_signature_invalid")


def _key(root: TrustRoot, kid: str) -> ec.EllipticCurvePublicKey | None:
    for entry in root.jwks.get("keys", ()):
        if not isinstance(entry, dict) or entry.get("kid") != kid or entry.get("crv") != "P-256":
            continue
        try:
            x, y = (int.from_bytes(_base64url(str(entry[axis]))) for axis in ("x", "y"))
            return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        except (KeyError, ValueError, binascii.Error):
            return None
    return None


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _build_context(statement: Statement, issuer: str, audience: str | None) -> tuple[dict[str, str], str]:
    """What the statement says about its build, and what is wrong with it."""
    definition = statement.predicate.get("buildDefinition", {})
    details = statement.predicate.get("runDetails", {})
    try:
        workflow = definition["externalParameters"]["workflow"]
        inner = definition["internalParameters"]
        context = {
            "repository": str(workflow["repository"]),
            "ref": str(workflow["ref"]),
            "workflow": str(workflow.get("path", "")),
            "commit": str(inner["commit"]),
            "runId": str(inner["runId"]),
            "jobId": str(inner["jobId"]),
        }
        builder = str(details["builder"]["id"])
        found_audience = details.get("metadata", {}).get("audience")
    except (KeyError, TypeError, AttributeError) as error:
        return {}, f"build_context_mismatch: the statement lacks {error}"
    if not builder.startswith(f"{issuer}/orchestrator/"):
        return context, f"build_context_mismatch: builder {builder} does not belong to {issuer}"
    if audience is not None and found_audience != audience:
        return (
            context,
            f"build_context_mismatch: made for {found_audience or 'no audience'}, not {audience}",
        )
    return context, ""


def _digest(statement: Statement, artifact_sha256: str | None) -> Check:
    if artifact_sha256 is None:
        return Check(name="digest", verdict="skipped", reason="no file was given")
    digests = [subject.digest.get("sha256", "") for subject in statement.subject]
    if artifact_sha256 in digests:
        return Check(name="digest", verdict="pass")
    return _failed(
        "digest",
        f"subject_digest_mismatch: the file has {artifact_sha256}, attested is {', '.join(digests)}",
    )
