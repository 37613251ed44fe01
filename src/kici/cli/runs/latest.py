"""Which run `latest` is: the newest. Straight after a push, that of the pushed commit, as soon as it is there."""

import asyncio
import sys
import time

from kici.cli.client import Client
from kici.cli.git import ask

YOUNG_S = 120  # a commit older than that was not pushed a moment ago
PATIENCE_S = 10.0
_POLL_S = 0.1


async def latest(client: Client) -> str | None:
    """Its id; None when there is no run at all."""
    newest = await client.runs(pageSize=1)
    sha = _just_pushed()
    if sha is not None and not (newest and newest[0]["sha"] == sha):
        print(f"waiting for the run of {sha[:7]}", file=sys.stderr)
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            of_commit = await client.runs(sha=sha, pageSize=1)
            if of_commit:
                return of_commit[0]["runId"]
            await asyncio.sleep(_POLL_S)
        if newest:
            print(f"{sha[:7]} has started no run; this is the newest", file=sys.stderr)
    return newest[0]["runId"] if newest else None


def _just_pushed() -> str | None:
    """HEAD, when it is young and a remote (if there is any) has it."""
    sha, _, committed = ask("log", "-1", "--format=%H %ct").partition(" ")
    if not sha or time.time() - int(committed) > YOUNG_S:
        return None
    if ask("remote") and not ask("branch", "--remotes", "--contains", sha):
        return None
    return sha
