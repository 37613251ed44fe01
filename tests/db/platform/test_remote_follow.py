"""What `kici run remote` shows of a run, line by line (AU-128)."""

import io
from pathlib import Path

from kici.cli.client import Client, Target
from kici.cli.local.screen import Screen
from kici.cli.remote.follow import Followed
from kici.cli.remote.report import run_report
from tests.support import platform as kit
from tests.support.postgres import Database
from tests.support.scripted_run import ScriptedRun


async def test_lines_are_shown_once_and_unfinished_ones_go_on(platform_db: Database, tmp_path: Path):
    """Half a line is shown at once; its other half follows it; what was replaced is not shown twice."""
    script = ScriptedRun()
    shown = io.BytesIO()
    methods: dict[str, kit.Answer] = {"run.detail": script.detail, "logs.read": script.page}
    async with (
        kit.platform(platform_db, tmp_path) as served,
        kit.orchestrator(served, methods=methods),
        Client(Target(served.url, kit.TOKEN, kit.ORG)) as client,
    ):
        screen = Screen(shown, quiet=False, live=False)
        run = Followed(client, kit.ORG, script.run_id, screen, prefix="")
        await run.look()
        await run.look()
        await kit.eventually(lambda: shown.getvalue().endswith(b"half a li"))
        script.logs[1] = ["c", "half a line", "next"]
        await run.look()
        assert not run.ended
        script.logs[1] = ["c", "half a line", "next", "end"]
        script.ended = True
        await run.look()
        assert run.ended
        await run.look()
        screen.close()
    assert shown.getvalue().decode().splitlines() == [
        "test │ a",
        "test │ b",
        "test │ c",
        "test │ half a line",
        "test │ next",
        "test │ end",
    ]
    assert run.detail is not None
    report = run_report(run.detail)
    assert (report.status, [job.name for job in report.jobs]) == ("success", ["test"])
    assert [step.status for step in report.jobs[0].steps] == ["success", "success", "skipped"]
