"""Settings, origins and client addresses (PD-7, PD-45, the settings table of PD §1)."""

import pytest

from kici.platform.settings import Origins, PlatformSettings, client_ip, trusted_networks
from kici.runtime.settings import BadSettings, load

NEEDED = {"KICI_DATABASE_URL": "postgresql://x/y", "KICI_SECRET_KEY": "ab" * 32}


def test_defaults_are_those_of_the_documents():
    settings = load(PlatformSettings, NEEDED)
    assert (settings.host, settings.port, settings.base_path) == ("127.0.0.1", 10142, "/")
    assert settings.webhook_inbox_ttl_s == 86_400
    assert settings.dashboard_proxy_timeout_ms == 10_000
    assert Origins(settings).public_url == "http://127.0.0.1:10142"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, ["KICI_DATABASE_URL", "KICI_SECRET_KEY"]),
        ({**NEEDED, "KICI_PORTT": "1"}, ["KICI_PORTT", "KICI_PORT?"]),
        ({**NEEDED, "KICI_SECRET_KEY": "short"}, ["KICI_SECRET_KEY"]),
        ({**NEEDED, "KICI_PORT": "70000"}, ["KICI_PORT", "70000"]),
        ({**NEEDED, "KICI_WEBHOOK_INBOX": "maybe"}, ["KICI_WEBHOOK_INBOX"]),
    ],
)
def test_problems_name_the_variable(environ: dict[str, str], words: str):
    with pytest.raises(BadSettings) as refused:
        load(PlatformSettings, environ)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("text", "normal"), [("/", "/"), ("", "/"), ("kici", "/kici/"), ("/a/b/", "/a/b/")]
)
def test_base_paths(text: str, normal: str):
    settings = PlatformSettings(database_url="", secret_key="", base_path=text)
    assert Origins(settings).base_path == normal


def test_which_origins_are_ours():
    settings = PlatformSettings(database_url="", secret_key="", public_url="https://ci.example.org/kici/")
    origins = Origins(settings)
    assert origins.secure
    assert (
        origins.webhook_url("org_x", "hooks") == "https://ci.example.org/kici/webhook/org_x/generic/hooks"
    )
    assert origins.same("https://ci.example.org", "10.0.0.5:10142")
    assert origins.same("http://localhost:10142", "localhost:10142")
    assert not origins.same("https://ci.example.org.evil.example", "10.0.0.5:10142")
    assert not origins.same("http://localhost:9999", "localhost:10142")
    assert not origins.same("null", "localhost:10142")


TRUSTED = trusted_networks("10.0.0.0/8, 192.168.1.1/32")


@pytest.mark.parametrize(
    ("peer", "forwarded", "real", "expected"),
    [
        ("203.0.113.9", "1.1.1.1", "2.2.2.2", "203.0.113.9"),  # a stranger's claims
        ("10.1.1.1", "1.1.1.1", None, "1.1.1.1"),
        ("10.1.1.1", "6.6.6.6, 1.1.1.1, 10.2.2.2", None, "1.1.1.1"),  # 6.6.6.6 was made up by 1.1.1.1
        ("10.1.1.1", "", "2.2.2.2", "2.2.2.2"),
        ("10.1.1.1", " , ", "", None),
        (None, "1.1.1.1", None, None),
    ],
)
def test_only_trusted_proxies_speak_for_others(
    peer: str | None, forwarded: str | None, real: str | None, expected: str | None
):
    assert client_ip(peer, forwarded, real, TRUSTED) == expected


def test_networks_that_are_none_are_refused():
    with pytest.raises(BadSettings, match="KICI_TRUSTED_PROXIES"):
        trusted_networks("10.0.0.1/8")
