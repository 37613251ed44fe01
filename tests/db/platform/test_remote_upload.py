"""The CLI's half of an upload against a Platform and a store that fails (AU-125)."""

import base64
import secrets
from pathlib import Path
from typing import Any

import pytest

from kici.cli.client import Client, Target, Unreachable
from kici.cli.remote.pack import Packed
from kici.cli.remote.transfer import Destination, sealed_values, trigger, upload
from kici.protocol.overlay import Opener, upload_key
from kici.protocol.remote_v1 import RemoteEventBody, RemoteTriggerBody, open_values
from kici.runtime.ids import uuid7
from tests.db.platform.uploads import Uploads, store
from tests.support import platform as kit
from tests.support.postgres import Database


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path) as served:
        yield served


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    path = tmp_path / "tree"
    path.write_bytes(secrets.token_bytes(3 << 20))
    return Packed(path=path, size_bytes=3 << 20, file_count=1)


TO = Destination(org_id=kit.ORG, cluster=None, default_cluster=None)


async def test_a_failed_upload_is_tried_again_with_fresh_url_and_keys(served: kit.Served, packed: Packed):
    """AU-125: three tries; what arrives opens with the key of the last."""
    progress: list[int] = []
    async with store(0, 503, 204) as there:
        uploads = Uploads(there)
        async with (
            kit.orchestrator(served, methods={"remote.upload": uploads.begin}),
            Client(Target(served.url, kit.TOKEN, kit.ORG)) as client,
        ):
            done = await upload(client, TO, "a" * 40, packed, progress.append)
    assert len(set(there.tries)) == 3
    assert list(there.bodies) == [f"/{done.upload_id}"]
    key = upload_key(uploads.private[done.upload_id], base64.b64decode(done.public_key))
    opener = Opener(key)
    assert opener.feed(there.bodies[f"/{done.upload_id}"]) == packed.path.read_bytes()
    opener.finish()
    assert progress[-1] == packed.sealed_bytes
    assert progress.count(0) == 3


async def test_the_third_failure_is_the_last(served: kit.Served, packed: Packed):
    """AU-136: then the server is as good as away."""
    async with store(500, 500, 500) as there:
        uploads = Uploads(there)
        async with (
            kit.orchestrator(served, methods={"remote.upload": uploads.begin}),
            Client(Target(served.url, kit.TOKEN, kit.ORG)) as client,
        ):
            with pytest.raises(Unreachable, match="failed 3 times"):
                await upload(client, TO, "a" * 40, packed, lambda _sent: None)


async def test_a_lost_answer_is_asked_for_again(served: kit.Served, packed: Packed):
    """The trigger is safe to repeat; the secrets open with a pair of their own."""
    run_id = uuid7()
    times_out: list[Any] = [
        kit.wire.RpcResponse(id="", error_code="deadline_exceeded", error="late", status=504)
    ]
    accepted = {
        "runId": run_id,
        "status": "accepted",
        "reason": None,
        "message": None,
        "jobIds": [],
        "runs": [{"runId": run_id, "workflowName": "ci", "jobIds": []}],
    }

    def answer(_params: dict[str, Any]) -> Any:
        return times_out.pop() if times_out else accepted

    async with store(204) as there:
        uploads = Uploads(there)
        methods: dict[str, kit.Answer] = {"remote.upload": uploads.begin, "remote.trigger": answer}
        async with (
            kit.orchestrator(served, methods=methods) as orchestrator,
            Client(Target(served.url, kit.TOKEN, kit.ORG)) as client,
        ):
            done = await upload(client, TO, "a" * 40, packed, lambda _sent: None)
            sealed, sealed_key = sealed_values(done, {"TOKEN": "swordfish"})
            body = RemoteTriggerBody(
                fixture_id="push",
                event=RemoteEventBody(type="push"),
                upload_id=done.upload_id,
                cli_public_key=done.public_key,
                inline_lock_file="{}",
                encrypted_secrets=sealed,
                encrypted_secrets_key=sealed_key,
            )
            assert (await trigger(client, TO, body)).run_id == run_id
    first, second = [r.params for r in orchestrator.requests if r.method == "remote.trigger"]
    assert first == second
    assert sealed is not None
    assert sealed_key is not None
    assert sealed_key != done.public_key
    key = upload_key(uploads.private[done.upload_id], base64.b64decode(sealed_key))
    assert open_values(key, base64.b64decode(sealed)) == {"TOKEN": "swordfish"}
