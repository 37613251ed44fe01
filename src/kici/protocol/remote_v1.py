"""`kici run remote`: what the CLI sends to the Platform and the Platform to an orchestrator (AU-123).

| RPC method | params | result |
|---|---|---|
| `remote.base` | BaseBody | BaseView |
| `remote.upload` | UploadBody | UploadView |
| `remote.trigger` | RemoteTriggerBody | RemoteTriggered |

The working tree goes straight to the orchestrator's signed URL, sealed (kici.protocol.overlay) with the key
that both sides get from the CLI's X25519 key `cliPublicKey` and the upload's `publicKey`. Secret values are
sealed the same way, with a pair of their own: IV 12 ‖ tag 16 ‖ ciphertext of a JSON object, AES-256-GCM. The
Platform passes both on and can read neither. Byte strings are base64.

Where the orchestrator has a source for the author's repository, only the difference to a commit of it need
travel: `remote.base` says which commits would do, the overlay's manifest names one, and `base` and `source`
of the trigger say the same. An orchestrator without `remote.base` takes whole trees only.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from kici.protocol.overlay import OverlayBroken

MAX_LOCK_BYTES = 5 << 20
UPLOAD_SECONDS = 3600  # how long a signed URL takes a working tree
MAX_ADDRESSES = 64
MAX_COMMITS = 256

_IV, _TAG = 12, 16

CheckMode = Literal["apply", "check", "check-fail-on-drift"]
RejectReason = Literal[
    "upload_unknown",
    "upload_missing",
    "upload_used",
    "base_unknown",
    "bad_key",
    "bad_secrets",
    "bad_repository",
    "lock_corrupt",
    "unknown_workflow",
    "no_match",
    "bad_inputs",
    "bad_event",
    "environment_unknown",
    "capability_missing",
]


class BaseBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`addresses` of the author's remotes only help to choose among the organization's sources: nothing is ever
    fetched from them. `commits` that the author believes to be there."""

    addresses: list[str]
    commits: list[str]


class BaseView(Struct, frozen=True, kw_only=True, rename="camel"):
    """The name of the source, and those of the commits that its branches and tags contain. No source: send
    everything."""

    source: str | None
    commits: list[str]


class UploadBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`sha`: HEAD of the author's work tree. `compressed_size`: bytes of the sealed overlay."""

    sha: str
    file_count: int
    compressed_size: int


class UploadView(Struct, frozen=True, kw_only=True, rename="camel"):
    """PUT the sealed overlay to `signed_url` within `expires_in` seconds."""

    upload_id: str
    signed_url: str
    public_key: str
    expires_in: int


class RemoteEventBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """kici.spec.events.Event as a command line makes it up."""

    type: str
    target_branch: str | None = None
    action: str | None = None
    source_branch: str | None = None
    base_branch: str | None = None
    is_fork_pr: bool | None = None
    sender_username: str | None = None
    changed_files: list[str] | None = None
    source: str | None = None
    raw_event: str | None = None
    payload: dict[str, Any] = {}


class RemoteTriggerBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`workflow_name` starts that workflow whatever its triggers say; without it all that match start.
    `secrets` maps a name to an environment of the orchestrator; values travel in `encrypted_secrets`.
    Without `full_repo` the overlay is one over `base`, a commit of `source`: then the run belongs to that
    source's repository, whatever `repository` says. `base_unknown`: send everything."""

    fixture_id: str
    event: RemoteEventBody
    upload_id: str
    cli_public_key: str
    inline_lock_file: str
    full_repo: bool = True
    base: str | None = None
    source: str | None = None
    workflow_name: str | None = None
    secrets: dict[str, str] = {}
    encrypted_secrets: str | None = None
    encrypted_secrets_key: str | None = None
    check_mode: CheckMode = "apply"
    target: list[str] = []
    target_allow_empty: bool = False
    approve_all: bool = False
    dispatch_inputs: dict[str, Any] = {}
    repository: str = ""
    branch: str | None = None
    commit_message: str | None = None


class RemoteRun(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    workflow_name: str
    job_ids: list[str]


class RemoteTriggered(Struct, frozen=True, kw_only=True, rename="camel"):
    """`run_id` and `job_ids` are those of the first of `runs`. Rejected: nothing was started; `reason` is for
    programs, `message` for people."""

    run_id: str | None
    status: Literal["accepted", "rejected"]
    reason: RejectReason | None
    message: str | None
    job_ids: list[str]
    runs: list[RemoteRun]


def seal_values(key: bytes, values: Mapping[str, str]) -> bytes:
    """Secret values for `encrypted_secrets`. A key seals one document."""
    iv = secrets.token_bytes(_IV)
    sealed = AESGCM(key).encrypt(iv, msgspec.json.encode(dict(values)), None)
    return iv + sealed[-_TAG:] + sealed[:-_TAG]


def open_values(key: bytes, sealed: bytes) -> dict[str, str]:
    """Raises OverlayBroken."""
    iv, tag, body = sealed[:_IV], sealed[_IV : _IV + _TAG], sealed[_IV + _TAG :]
    try:
        plain = AESGCM(key).decrypt(iv, body + tag, None)
        return msgspec.json.decode(plain, type=dict[str, str])
    except (InvalidTag, ValueError, msgspec.MsgspecError) as error:
        raise OverlayBroken("the secrets do not open: another key, or changed on their way") from error
