"""What browsers see as it happens (PD-68…72)."""

import asyncio
from pathlib import Path
from typing import Literal

import pytest
import websockets
from sqlalchemy import text
from websockets.typing import Origin

from kici.protocol import browser_v1 as wire
from kici.protocol.platform_v1 import LogWatchEnded
from kici.runtime.ids import uuid7
from kici.spec.states import RunStatus, StepStatus
from tests.support import platform as kit
from tests.support.browser import Agent, Browser, LogView, browser
from tests.support.postgres import Database


@pytest.fixture
def clock() -> kit.TestClock:
    return kit.TestClock()


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path, clock: kit.TestClock):
    async with kit.platform(platform_db, tmp_path, clock=clock) as served:
        yield served


# ── who may listen ───────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_token_is_told_and_closed(served: kit.Served):
    async with browser(served, token=None) as one:
        await one.send(wire.AuthRequest(token="kici_pat_wrong"))
        assert (await one.expect(wire.AuthFailure)).reason == "token_unknown"
        assert await one.closing_code() == 4001


async def test_speaking_before_signing_in_is_refused(served: kit.Served):
    async with browser(served, token=None) as one:
        await one.send(wire.StatusSubscribe(org_id=kit.ORG))
        await one.expect(wire.AuthFailure)
        assert await one.closing_code() == 4001


async def test_a_cookie_signs_in_only_from_our_own_pages(served: kit.Served):
    url = f"ws://127.0.0.1:{served.port}/ws/dashboard"
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        cookie = {"cookie": f"kici_session={http.cookies['kici_session']}"}
    async with websockets.connect(url, additional_headers=cookie, origin=Origin(served.origin)) as socket:
        assert isinstance(wire.decode_to_browser(await socket.recv()), wire.AuthSuccess)
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(
            url, additional_headers=cookie, origin=Origin("https://evil.example")
        ):
            pass
    assert refused.value.response.status_code == 403


async def test_signing_out_closes_the_socket(served: kit.Served):
    url = f"ws://127.0.0.1:{served.port}/ws/dashboard"
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        cookie = {"cookie": f"kici_session={http.cookies['kici_session']}"}
        async with websockets.connect(
            url, additional_headers=cookie, origin=Origin(served.origin)
        ) as socket:
            one = Browser(socket)
            await one.expect(wire.AuthSuccess)
            await http.post("/auth/logout")
            await one.expect(wire.AuthFailure)
            assert await one.closing_code() == 4001
        login = await http.post("/auth/login", json={"email": kit.SETUP["email"], "password": kit.PASSWORD})
        assert login.status_code == 200


async def test_other_orgs_can_neither_be_watched_nor_told_apart(served: kit.Served):
    async with browser(served) as one:
        await one.send(wire.StatusSubscribe(org_id="org_zzzzzzzzzzzz"))
        assert (await one.expect(wire.ErrorFrame)).code == "forbidden"
        await one.send(
            wire.LogSubscribe(org_id="org_zzzzzzzzzzzz", run_id=uuid7(), job_id=uuid7(), step_index=0)
        )
        assert (await one.expect(wire.ErrorFrame)).code == "forbidden"
        await one.send(wire.Ping())
        await one.expect(wire.Pong)


async def test_leaving_the_org_ends_its_events(served: kit.Served, platform_db: Database):
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.subscribe()
        async with platform_db.engine.begin() as tx:
            await tx.execute(text("DELETE FROM org_members"))
            user_id = await tx.scalar(text("SELECT id FROM users"))
        for told in served.app.services.people.on_revoked:
            told(user_id)
        await kit.eventually(lambda: not served.app.hub.listeners(kit.ORG))
        run = kit.run_projection()
        await orchestrator.project(kit.item(1, run.run_id, run=run))
        await one.send(wire.Ping())
        await one.expect(wire.Pong)


# ── org events ───────────────────────────────────────────────────────────────────────────────────


async def test_changes_arrive_whole_and_in_sequence(served: kit.Served):
    run = kit.run_projection()
    job = kit.job_projection(run.run_id)
    async with browser(served) as one:
        first = await one.subscribe()
        assert first.orchestrator_connected is False
        async with kit.orchestrator(served) as orchestrator:
            assert (await one.expect(wire.OrchestratorStatus)).connected is True
            await orchestrator.project(kit.item(1, run.run_id, run=run, jobs=[job]))
            new = await one.expect(wire.RunChanged)
            assert (new.is_new, new.run, new.jobs) == (True, run, [job])
            step = kit.step_projection(run.run_id, job.job_id, status=StepStatus.SUCCESS)
            await orchestrator.project(kit.item(2, run.run_id, steps=[step]))
            changed = await one.expect(wire.RunChanged)
            assert (changed.is_new, changed.run, changed.jobs, changed.steps) == (False, None, [], [step])
            await orchestrator.project(kit.item(1, run.run_id, run=run, jobs=[job]))  # a replay
        assert (await one.expect(wire.OrchestratorStatus)).connected is False  # and nothing before it
        numbers = [
            frame.seq for frame in one.seen if isinstance(frame, wire.RunChanged | wire.OrchestratorStatus)
        ]
        assert numbers == list(range(first.seq + 1, first.seq + 5))


async def test_what_was_missed_is_replayed(served: kit.Served):
    runs = [kit.run_projection() for _ in range(5)]
    async with kit.orchestrator(served) as orchestrator:
        async with browser(served) as one:
            await one.subscribe()
            await orchestrator.project(kit.item(1, runs[0].run_id, run=runs[0]))
            last = (await one.expect(wire.RunChanged)).seq
        for rev, run in enumerate(runs[1:], 2):
            await orchestrator.project(kit.item(rev, run.run_id, run=run))
        async with browser(served) as one:
            assert (await one.subscribe(since_seq=last)).seq == last
            assert [(await one.expect(wire.RunChanged)).run_id for _ in runs[1:]] == [
                r.run_id for r in runs[1:]
            ]
            await one.send(wire.Ping())
            await one.expect(wire.Pong)


async def test_too_old_a_number_asks_to_start_over(served: kit.Served, clock: kit.TestClock):
    run = kit.run_projection()
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        start = await one.subscribe()
        await orchestrator.project(kit.item(1, run.run_id, run=run))
        await one.expect(wire.RunChanged)
        clock.advance(seconds=301)
        for since in (start.seq, 17, start.seq + 1000):
            async with browser(served) as late:
                await late.send(wire.StatusSubscribe(org_id=kit.ORG, since_seq=since))
                assert (await late.expect(wire.Resync)).seq == start.seq + 1
                assert (await late.expect(wire.Subscribed)).seq == start.seq + 1
        async with browser(served) as current:
            assert (await current.subscribe(since_seq=start.seq + 1)).seq == start.seq + 1


async def test_a_restart_is_never_mistaken_for_continuity(platform_db: Database, tmp_path: Path):
    clock = kit.TestClock()
    async with kit.platform(platform_db, tmp_path, clock=clock) as served, browser(served) as one:
        before = (await one.subscribe()).seq
        async with kit.orchestrator(served) as orchestrator:
            run = kit.run_projection()
            await orchestrator.project(kit.item(1, run.run_id, run=run))
    clock.advance(seconds=1)
    async with kit.platform(platform_db, tmp_path, clock=clock) as served, browser(served) as one:
        await one.send(wire.StatusSubscribe(org_id=kit.ORG, since_seq=before + 2))
        await one.expect(wire.Resync)


async def test_a_browser_that_does_not_read_ends_up_with_the_newest_state(served: kit.Served):
    """More changes than its queue holds: merged per run or replaced by a resync, never lost."""
    runs = [kit.run_projection(commit_message="x" * 2000) for _ in range(40)]
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.subscribe()
        one.socket.transport.pause_reading()
        rev = 0
        for _ in range(50):
            items = []
            for run in runs:
                rev += 1
                items.append(kit.item(rev, run.run_id, run=run))
            await orchestrator.project(*items)
        final = []
        for run in runs:
            rev += 1
            done = kit.run_projection(run.run_id, status=RunStatus.SUCCESS, commit_message="x" * 2000)
            final.append(kit.item(rev, run.run_id, run=done))
        await orchestrator.project(*final)
        end = served.app.hub.seq(kit.ORG)
        one.socket.transport.resume_reading()
        state: dict[str, str] = {}
        last = 0
        frames = 0
        while last < end:
            frame = await one.next()
            assert isinstance(frame, wire.RunChanged)
            assert frame.seq > last
            last, frames = frame.seq, frames + 1
            if frame.run is not None:
                state[frame.run_id] = frame.run.status
        assert state == {run.run_id: RunStatus.SUCCESS for run in runs}
        assert frames < 51 * len(runs)


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────


async def test_lines_flow_from_agent_blocks_to_the_browser(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    agent = Agent(job_id)
    view = LogView()
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.follow(run_id, job_id)
        async with asyncio.timeout(10):
            watch = await orchestrator.watches.get()
        assert (watch.run_id, watch.job_id, watch.step_index, watch.from_line) == (run_id, job_id, 0, 0)
        await orchestrator.block(watch.watch_id, agent.block(b"one\ntwo\n"))
        frame = await one.expect(wire.LogLines)
        assert (frame.first_line, frame.lines, frame.ts) == (0, ["one", "two"], [1000, 1000])
        assert (frame.line_count, frame.open_line, frame.attempt) == (2, False, 1)
        view.take(frame)
        await orchestrator.block(watch.watch_id, agent.block("três\n".encode(), raw=True))
        await orchestrator.block(watch.watch_id, agent.block(b"\n\n"))
        await orchestrator.block(watch.watch_id, agent.block(b"", end=True))
        await orchestrator.send(LogWatchEnded(watch_id=watch.watch_id, reason="complete"))
        await view.read_until_end(one)
        assert view.lines == {0: "one", 1: "two", 2: "três", 3: "", 4: ""}
        assert (view.ended, view.gaps) == ("complete", [])


async def test_an_open_line_grows_under_its_number(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    agent = Agent(job_id)
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.follow(run_id, job_id)
        watch = await orchestrator.watches.get()
        got = []
        for part in (b"start\n.", b".", "é".encode()[:1], "é".encode()[1:], b"done\nnext\n"):
            await orchestrator.block(watch.watch_id, agent.block(part))
            frame = await one.expect(wire.LogLines)
            got.append((frame.first_line, frame.lines, frame.open_line))
        assert got == [
            (0, ["start", "."], True),
            (1, [".."], True),
            (1, ["..\ufffd"], True),
            (1, ["..é"], True),
            (1, ["..édone", "next"], False),
        ]


async def test_a_giant_line_is_cut_and_stays_cheap(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    agent = Agent(job_id)
    view = LogView()
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.follow(run_id, job_id)
        watch = await orchestrator.watches.get()
        for _ in range(30):
            await orchestrator.block(watch.watch_id, agent.block(b"x" * (1 << 20)))
        await orchestrator.block(watch.watch_id, agent.block(b"\nafter\n"))
        await orchestrator.send(LogWatchEnded(watch_id=watch.watch_id, reason="complete"))
        await view.read_until_end(one)
        assert view.lines[0] == "x" * 65536
        assert view.lines[1] == "after"


async def test_late_joiners_share_the_watch_and_start_where_they_ask(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    agent = Agent(job_id)
    views = [LogView() for _ in range(3)]
    async with (
        kit.orchestrator(served) as orchestrator,
        browser(served) as first,
        browser(served) as second,
        browser(served) as third,
    ):
        await first.follow(run_id, job_id, after=10)  # REST gave it lines 0…9
        watch = await orchestrator.watches.get()
        assert watch.from_line == 10
        agent.line, agent.seq = 8, 4  # the block that holds line 10 begins before it
        await orchestrator.block(watch.watch_id, agent.block(b"8\n9\n10\n11\n"))
        frame = await first.expect(wire.LogLines)
        assert (frame.first_line, frame.lines) == (10, ["10", "11"])
        views[0].take(frame)
        await orchestrator.block(watch.watch_id, agent.block(b"12\n13\n"))
        views[0].take(await first.expect(wire.LogLines))
        await second.follow(run_id, job_id, after=11)
        views[1].take(await second.expect(wire.LogLines))
        await third.follow(run_id, job_id, after=3)  # lines 3…9 are not to be had live
        gap = await third.expect(wire.LogGap)
        assert (gap.first_line, gap.dropped_line_count) == (3, 7)
        await orchestrator.block(watch.watch_id, agent.block(b"14\n"))
        await orchestrator.send(LogWatchEnded(watch_id=watch.watch_id, reason="complete"))
        for view, one in zip(views, (first, second, third), strict=True):
            await view.read_until_end(one)
        assert views[0].lines == {n: str(n) for n in range(10, 15)}
        assert views[1].lines == {n: str(n) for n in range(11, 15)}
        assert views[2].lines == {n: str(n) for n in range(10, 15)}
        assert orchestrator.watches.empty()


async def test_a_slow_browser_gets_gaps_that_cover_exactly_what_it_missed(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    agent = Agent(job_id)
    view = LogView()
    text_of = "{:07d} " + "z" * 900
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.follow(run_id, job_id)
        watch = await orchestrator.watches.get()
        one.socket.transport.pause_reading()
        line = 0
        for _ in range(200):
            lines = [text_of.format(line + n) for n in range(100)]
            line += 100
            await orchestrator.block(watch.watch_id, agent.block(("\n".join(lines) + "\n").encode()))
        await orchestrator.send(LogWatchEnded(watch_id=watch.watch_id, reason="complete"))
        await orchestrator.register("hooks")  # everything before has been received
        one.socket.transport.resume_reading()
        await view.read_until_end(one)
        missed = {n for first, count in view.gaps for n in range(first, first + count)}
        assert view.gaps
        assert not missed & set(view.lines)
        assert missed | set(view.lines) == set(range(line))
        assert all(view.lines[n] == text_of.format(n) for n in view.lines)


async def test_a_watch_that_the_orchestrator_gave_up_goes_on_where_it_stopped(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    agent = Agent(job_id)
    view = LogView()
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.follow(run_id, job_id)
        watch = await orchestrator.watches.get()
        first = agent.block(b"0\n1\n2")
        await orchestrator.block(watch.watch_id, first)
        view.take(await one.expect(wire.LogLines))
        await orchestrator.send(LogWatchEnded(watch_id=watch.watch_id, reason="overflow"))
        async with asyncio.timeout(10):
            again = await orchestrator.watches.get()
        assert again.from_line == 2
        await orchestrator.block(again.watch_id, first)  # the block that holds line 2
        await orchestrator.block(again.watch_id, agent.block(b" ends\n3\n"))
        await orchestrator.send(LogWatchEnded(watch_id=again.watch_id, reason="complete"))
        await view.read_until_end(one)
        assert view.lines == {0: "0", 1: "1", 2: "2 ends", 3: "3"}
        assert view.gaps == []


async def test_the_upstream_watch_ends_with_its_last_reader(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    async with kit.orchestrator(served) as orchestrator:
        async with browser(served) as one:
            async with browser(served) as two:
                await one.follow(run_id, job_id)
                watch = await orchestrator.watches.get()
                await two.follow(run_id, job_id)
                await two.send(wire.LogUnsubscribe(job_id=job_id, step_index=0))
                await two.send(wire.Ping())
                await two.expect(wire.Pong)
                assert orchestrator.unwatched.empty()
        async with asyncio.timeout(10):
            assert await orchestrator.unwatched.get() == watch.watch_id


@pytest.mark.parametrize("reason", ["not_found", "complete"])
async def test_the_end_is_told(served: kit.Served, reason: Literal["not_found", "complete"]):
    run_id, job_id = uuid7(), uuid7()
    async with kit.orchestrator(served) as orchestrator, browser(served) as one:
        await one.follow(run_id, job_id, step_index=2)
        watch = await orchestrator.watches.get()
        await orchestrator.send(LogWatchEnded(watch_id=watch.watch_id, reason=reason))
        ended = await one.expect(wire.LogEnded)
        assert (ended.reason, ended.step_index) == (reason, 2)


async def test_an_orchestrator_that_is_or_goes_away_ends_the_stream(served: kit.Served):
    run_id, job_id = uuid7(), uuid7()
    async with browser(served) as one:
        await one.follow(run_id, job_id)
        assert (await one.expect(wire.LogEnded)).reason == "orchestrator_away"
        async with kit.orchestrator(served) as orchestrator:
            await one.follow(run_id, job_id)
            await orchestrator.watches.get()
        assert (await one.expect(wire.LogEnded)).reason == "orchestrator_away"
