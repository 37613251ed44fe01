"""`~/.kici/config`: who this command line is signed in as, and what it goes to when nobody says (AU-141)."""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct, structs

_WARN_WITHIN = timedelta(days=7)


class Config(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`token` came from `kici login`; `token_file` is that of a local `kici up`, which needs no sign-in.
    KICI_TOKEN never stands here."""

    platform_url: str = ""
    token: str = ""
    token_id: str = ""
    token_expires_at: datetime | None = None
    token_file: str = ""
    org_id: str = ""  # the active one
    default_clusters: dict[str, str] = {}  # org id → orchestrator cluster

    def secret(self) -> str:
        """Empty when there is none, or its file is gone."""
        if self.token or not self.token_file:
            return self.token
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def config_dir() -> Path:
    return Path(os.environ.get("KICI_CONFIG_DIR") or os.path.expanduser("~/.kici"))


def config_file() -> Path:
    return config_dir() / "config"


def load() -> Config:
    """What cannot be read is as if it were not there."""
    try:
        return msgspec.json.decode(config_file().read_bytes(), type=Config)
    except (OSError, msgspec.MsgspecError):
        return Config()


def save(config: Config) -> None:
    """Mode 0600, atomically."""
    path = config_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"config.{os.getpid()}.tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
    os.replace(scratch, path)


def remember_local(*, platform_url: str, org_id: str, token_file: str) -> None:
    """What a `kici up` on this machine wants to be found by. A sign-in elsewhere stays what it is."""
    known = load()
    if not known.token:
        keep = known.default_clusters if known.platform_url == platform_url else {}
        save(Config(platform_url=platform_url, org_id=org_id, token_file=token_file, default_clusters=keep))


def signed_in(
    config: Config, *, platform_url: str, token: str, token_id: str, expires_at: datetime | None
) -> Config:
    """Another endpoint has other organizations and clusters: those chosen before are forgotten."""
    fresh = structs.replace(
        config,
        platform_url=platform_url,
        token=token,
        token_id=token_id,
        token_expires_at=expires_at,
        token_file="",
    )
    if config.platform_url != platform_url:
        fresh = structs.replace(fresh, org_id="", default_clusters={})
    return fresh


def warn_of_expiry(config: Config, now: datetime | None = None) -> None:
    """On stderr, within a week of the end."""
    if not config.token or config.token_expires_at is None:
        return
    left = config.token_expires_at - (now or datetime.now(UTC))  # noqa: TID251  a person's calendar
    if timedelta() < left <= _WARN_WITHIN:
        words = "within a day" if left < timedelta(days=1) else f"in {left.days + 1} days"
        print(f"warning: your sign-in expires {words}: run `kici login`", file=sys.stderr)
