"""A provenance bundle is judged by the verifier's own trust root (SE-76, SE-78, SE-79)."""

import base64
import hashlib
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from kici.engine import provenance
from kici.engine.provenance import TrustRoot, verify

ISSUER = "https://ci.example.org"
ARTIFACT = b"the wheel"
DIGEST = hashlib.sha256(ARTIFACT).hexdigest()
KEY = ec.generate_private_key(ec.SECP256R1())


def b64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()


def root(key: ec.EllipticCurvePrivateKey = KEY, issuer: str = ISSUER) -> TrustRoot:
    point = key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "kid": "k1", "x": b64url(point.x), "y": b64url(point.y)}
    return TrustRoot(issuer=issuer, jwks={"keys": [jwk]})


def statement(**changes: Any) -> dict[str, Any]:
    return {
        "_type": provenance.STATEMENT_TYPE,
        "subject": [{"name": "app.whl", "digest": {"sha256": DIGEST}}],
        "predicateType": provenance.PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "externalParameters": {
                    "workflow": {"repository": "acme/app", "ref": "refs/heads/main", "path": "ci.py"}
                },
                "internalParameters": {"commit": "c0ffee", "runId": "r1", "jobId": "j1"},
            },
            "runDetails": {
                "builder": {"id": f"{ISSUER}/orchestrator/o1"},
                "metadata": {"audience": "kici-provenance"},
            },
        },
    } | changes


def bundle(document: Any = None, *, key: ec.EllipticCurvePrivateKey = KEY, issuer: str = ISSUER) -> bytes:
    payload = msgspec.json.encode(statement() if document is None else document)
    der = key.sign(
        provenance.pre_authentication_encoding(provenance.PAYLOAD_TYPE, payload), ec.ECDSA(SHA256())
    )
    r, s = decode_dss_signature(der)
    return msgspec.json.encode(
        {
            "mediaType": provenance.BUNDLE_MEDIA_TYPE,
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": provenance.PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(r.to_bytes(32) + s.to_bytes(32)).decode()}],
            },
            "verificationMaterial": {"kid": "k1", "issuer": issuer, "timestamp": "2026-01-01T00:00:00Z"},
        }
    )


def verdicts(found: provenance.Verification) -> dict[str, str]:
    return {check.name: check.verdict for check in found.checks}


def test_a_genuine_bundle_passes_every_check() -> None:
    found = verify(bundle(), root(), artifact_sha256=DIGEST, audience="kici-provenance")
    assert found.verified
    assert set(verdicts(found).values()) == {"pass"}
    assert found.context["repository"] == "acme/app"


def test_without_a_file_the_digest_is_skipped() -> None:
    found = verify(bundle(), root())
    assert found.verified
    assert verdicts(found)["digest"] == "skipped"


def test_the_issuer_that_a_bundle_names_is_never_trusted() -> None:
    """SE-79: another key under the same id, or another issuer, is refused."""
    foreign = ec.generate_private_key(ec.SECP256R1())
    assert verdicts(verify(bundle(key=foreign), root()))["signature"] == "fail"
    found = verify(bundle(issuer="https://evil.example.org"), root())
    assert not found.verified
    assert verdicts(found)["issuer"] == "fail"


def test_another_file_another_audience_another_builder_fail() -> None:
    assert verdicts(verify(bundle(), root(), artifact_sha256="0" * 64))["digest"] == "fail"
    assert verdicts(verify(bundle(), root(), audience="other"))["build_context"] == "fail"
    elsewhere = statement()
    elsewhere["predicate"]["runDetails"]["builder"]["id"] = "https://other/orchestrator/o1"
    assert verdicts(verify(bundle(elsewhere), root()))["build_context"] == "fail"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        bundle({"_type": "x"}),
        bundle(statement(predicateType="other")),
        bundle().replace(b"version=0.2", b"version=9.9"),
    ],
)
def test_what_is_no_bundle_fails_at_the_schema(data: bytes) -> None:
    """SE-78: total; nothing raises, nothing is verified."""
    found = verify(data, root())
    assert not found.verified
    assert verdicts(found) == {"schema": "fail"}


def test_a_changed_payload_breaks_the_signature() -> None:
    document = msgspec.json.decode(bundle())
    changed = msgspec.json.encode(statement(subject=[{"name": "app.whl", "digest": {"sha256": "1" * 64}}]))
    document["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
    found = verify(msgspec.json.encode(document), root(), artifact_sha256="1" * 64)
    assert not found.verified
    assert verdicts(found)["signature"] == "fail"


def test_a_root_without_the_key_verifies_nothing() -> None:
    assert not verify(bundle(), TrustRoot(issuer=ISSUER, jwks={})).verified
    assert not verify(
        bundle(), TrustRoot(issuer=ISSUER, jwks={"keys": [{"kid": "k1", "crv": "P-256"}]})
    ).verified
