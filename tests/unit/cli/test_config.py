"""What the command line remembers, and which way it signs in (AU-140, AU-141)."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kici.cli import config as stored
from kici.cli.client import NotSignedIn, find_target
from kici.cli.oauth import wants_device

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KICI_PLATFORM_URL", "KICI_TOKEN", "KICI_ORG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KICI_CONFIG_DIR", str(tmp_path / "kici"))
    return tmp_path


def test_a_new_endpoint_clears_what_was_chosen_at_the_old_one():
    """AU-141."""
    before = stored.Config(platform_url="https://a", org_id="org_a", default_clusters={"org_a": "east"})
    again = stored.signed_in(before, platform_url="https://a", token="t", token_id="1", expires_at=None)
    assert (again.org_id, again.default_clusters) == ("org_a", {"org_a": "east"})
    other = stored.signed_in(before, platform_url="https://b", token="t", token_id="1", expires_at=None)
    assert (other.org_id, other.default_clusters) == ("", {})


def test_a_local_kici_up_leaves_a_sign_in_alone():
    stored.remember_local(platform_url="http://127.0.0.1:1", org_id="org_l", token_file="/nowhere")
    assert stored.load().platform_url == "http://127.0.0.1:1"
    signed_in = stored.signed_in(
        stored.load(), platform_url="https://a", token="secret", token_id="1", expires_at=None
    )
    stored.save(signed_in)
    stored.remember_local(platform_url="http://127.0.0.1:1", org_id="org_l", token_file="/nowhere")
    assert stored.load() == signed_in


def test_a_token_goes_to_the_platform_that_it_is_of(monkeypatch: pytest.MonkeyPatch):
    """KICI_PLATFORM_URL of another Platform never gets the stored token."""
    stored.save(stored.Config(platform_url="https://a", token="secret", org_id="org_a"))
    assert find_target().token == "secret"
    monkeypatch.setenv("KICI_PLATFORM_URL", "https://evil.example")
    with pytest.raises(NotSignedIn, match="kici login --platform-endpoint https://evil"):
        find_target()
    monkeypatch.setenv("KICI_TOKEN", "other")
    assert (find_target().platform_url, find_target().token) == ("https://evil.example", "other")


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (timedelta(days=8), ""),
        (timedelta(days=6, hours=12), "in 7 days"),
        (timedelta(hours=3), "within a day"),
        (timedelta(seconds=-1), ""),
    ],
)
def test_an_expiry_is_told_within_a_week(left: timedelta, told: str, capsys: pytest.CaptureFixture[str]):
    """AU-141."""
    stored.warn_of_expiry(stored.Config(token="t", token_expires_at=NOW + left), NOW)
    said = capsys.readouterr().err
    assert told in said
    assert bool(said) is bool(told)


@pytest.mark.parametrize(
    ("environ", "asked", "device"),
    [
        ({"DISPLAY": ":0"}, False, False),
        ({"WAYLAND_DISPLAY": "w"}, False, False),
        ({"DISPLAY": ":0"}, True, True),
        ({}, False, True),
        *[({"DISPLAY": ":0", name: "1"}, False, True) for name in ("SSH_CLIENT", "SSH_TTY", "CI")],
        *[({"DISPLAY": ":0", name: "1"}, False, True) for name in ("GITHUB_ACTIONS", "GITLAB_CI")],
        *[({"DISPLAY": ":0", name: "1"}, False, True) for name in ("container", "DOCKER_CONTAINER")],
        ({"CI": "true", "KICI_BROWSER_CMD": "none"}, False, False),
    ],
)
def test_which_way_to_sign_in(environ: dict[str, str], asked: bool, device: bool):
    """AU-140."""
    assert wants_device(environ, asked=asked, platform="linux") is device
