"""`auth` of a generic webhook trigger narrows what its source verified, and never widens it (AU-94, OR-55)."""

import pytest

from kici.engine.triggers import match_workflow
from kici.orchestrator.sources.verification import (
    AllowlistVerification,
    ApiKeyVerification,
    BearerVerification,
    HmacVerification,
    NoVerification,
    Verification,
    verified_by,
)
from kici.spec.events import Event
from kici.spec.triggers import GenericWebhookTrigger, WebhookAuth

HMAC = WebhookAuth(kind="hmac", secret="s", header="x-signature")
KEY = WebhookAuth(kind="api_key", secret="s", header="authorization")


@pytest.mark.parametrize(
    ("auth", "verified_by", "matches"),
    [
        (None, None, True),
        (None, "hmac:x-signature", True),
        (HMAC, "hmac:x-signature", True),
        (HMAC, "hmac:x-other", False),
        (HMAC, "api_key:x-signature", False),
        (HMAC, None, False),
        (KEY, "api_key:authorization", True),
        (KEY, None, False),
    ],
)
def test_only_what_was_verified_that_way_matches(
    auth: WebhookAuth | None, verified_by: str | None, matches: bool
) -> None:
    """OR-55: unknown verification is none."""
    trigger = GenericWebhookTrigger(source="s", auth=auth)
    event = Event(type="generic_webhook", source="s", verified_by=verified_by)

    assert match_workflow([trigger], event).matched is matches


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (HmacVerification(secrets=["x"], header_name="X-Signature"), "hmac:x-signature"),
        (ApiKeyVerification(secrets=["x"], header_name="X-Key"), "api_key:x-key"),
        (BearerVerification(secrets=["x"]), "api_key:authorization"),
        (AllowlistVerification(allowlist=["10.0.0.1"]), None),
        (NoVerification(), None),
        (None, None),
    ],
)
def test_sources_say_what_they_verify_by(config: Verification | None, said: str | None) -> None:
    """OR-55: in the words that triggers compare with."""
    assert verified_by(config) == said
