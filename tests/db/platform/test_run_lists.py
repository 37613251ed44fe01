"""The run list against a plain model of what it should answer (PD-66, PD-103…108)."""

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kici.platform.projection import queries as projection
from kici.platform.runs import queries
from kici.protocol.dashboard_v1 import RunProjection
from kici.runtime.ids import uuid7
from kici.spec.states import RunStatus
from tests.support import platform as kit
from tests.support.postgres import Database

Ask = Callable[..., Awaitable[Any]]
STATUSES = ["success", "failed", "error", "timed_out", "running", "queued", "cancelled"]
SORTS = {
    "createdAt": lambda run: (run.created_at,),
    "durationMs": lambda run: (run.duration_ms, run.created_at),
    "workflowName": lambda run: (run.workflow_name, run.created_at),
    "status": lambda run: (run.display_status, run.created_at),
    "triggerEvent": lambda run: (run.trigger_event, run.created_at),
    "ref": lambda run: (run.ref, run.created_at),
    "sha": lambda run: (run.sha, run.created_at),
}


def many_runs(count: int, seed: int = 3) -> list[RunProjection]:
    chance = random.Random(seed)
    runs: list[RunProjection] = []
    for number in range(count):
        display = chance.choice(STATUSES)
        ended = display not in {"running", "queued"}
        clocked = chance.choice([RunStatus.FAILED, RunStatus.CANCELLED])
        hidden = {"error": RunStatus.FAILED, "timed_out": clocked}
        status = hidden.get(display) or RunStatus(display)
        branch = chance.choice(["main", "dev", "feature/x", None])
        runs.append(
            kit.run_projection(
                uuid7(),
                status=status,
                display_status=display,
                workflow_name=chance.choice(["ci", "deploy", "nightly"]),
                branch=branch,
                ref=f"refs/heads/{branch}" if branch else "refs/tags/v1",
                repo_identifier=chance.choice(["demo/app", "demo/lib"]),
                trigger_event=chance.choice(["push", "pull_request"]),
                source_name=chance.choice(["hooks", "local"]),
                sha=f"{chance.randrange(12):x}" * 40,
                commit_message=f"Change {number}: {chance.choice(['fix the parser', '100%_done', 'speed'])}",
                triggered_by=chance.choice(["alice", "bob"]),
                created_at=kit.NOON + timedelta(seconds=number),
                # a run of before may start after those that came later
                started_at=kit.NOON + timedelta(seconds=chance.randrange(count))
                if display != "queued"
                else None,
                duration_ms=chance.randrange(5) * 1000 if ended else None,
            )
        )
    return runs


def expected_order(runs: list[RunProjection], sort: str, direction: str) -> list[str]:
    """Whole order turned round by `desc`, but a missing duration is last both ways."""
    key = SORTS[sort]
    known = [run for run in runs if None not in key(run)]
    unknown = [run for run in runs if None in key(run)]
    turned = direction == "desc"
    ordered = sorted(known, key=lambda run: (*key(run), run.run_id), reverse=turned)
    ordered += sorted(unknown, key=lambda run: (run.created_at, run.run_id), reverse=turned)
    return [run.run_id for run in ordered]


@pytest.fixture
def runs() -> list[RunProjection]:
    return many_runs(120)


@pytest.fixture
async def listing(platform_db: Database, tmp_path: Path, runs: list[RunProjection]):
    async with platform_db.engine.begin() as tx:
        items = [kit.item(rev, run.run_id, run=run) for rev, run in enumerate(runs, 1)]
        await projection.apply(tx, kit.ORG, "default", items)
    async with kit.platform(platform_db, tmp_path) as served, served.client() as http:

        async def ask(path: str = "/runs", **params: Any) -> Any:
            answer = await http.get(served.api + path, params=params)
            assert answer.status_code == 200, answer.text
            return answer.json()

        yield ask


def ids(page: Any) -> list[str]:
    return [run["runId"] for run in page["runs"]]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_pages_follow_one_another_in_order(
    listing: Ask, runs: list[RunProjection], sort: str, direction: str
):
    seen: list[str] = []
    for page in range(1, 5):
        answer = await listing(sort=sort, dir=direction, page=page, pageSize=37)
        assert answer["total"] == 120
        assert answer["totalIsCapped"] is False
        assert answer["hasMore"] is (page < 4)
        seen += ids(answer)
    assert seen == expected_order(runs, sort, direction)
    filtered = [run for run in runs if run.workflow_name == "ci"]
    answer = await listing(sort=sort, dir=direction, workflow="ci", pageSize=100)
    assert ids(answer) == expected_order(filtered, sort, direction)


FILTERS = {
    "status": ["success", "error"],
    "workflow": ["ci", "deploy"],
    "branch": ["main", "dev"],
    "repository": ["demo/app"],
    "triggerType": ["push"],
    "source": [f"generic:{kit.ORG}:hooks-id"],
}
FIELDS = {
    "status": lambda run: {run.status, run.display_status},
    "workflow": lambda run: {run.workflow_name},
    "branch": lambda run: {run.branch},
    "repository": lambda run: {run.repo_identifier},
    "triggerType": lambda run: {run.trigger_event},
    "source": lambda run: {run.source.routing_key},
}


async def test_filters_and_each_other_values_of_one_or(listing: Ask, runs: list[RunProjection]):
    chance = random.Random(11)
    for _ in range(40):
        chosen = {
            name: chance.sample(values, chance.randint(1, len(values)))
            for name, values in FILTERS.items()
            if chance.random() < 0.4
        }
        sort, direction = chance.choice(list(SORTS)), chance.choice(["asc", "desc"])
        matching = [
            run
            for run in runs
            if all(bool(FIELDS[name](run) & set(values)) for name, values in chosen.items())
        ]
        answer = await listing(sort=sort, dir=direction, pageSize=100, **chosen)
        assert answer["total"] == len(matching)
        assert ids(answer) == expected_order(matching, sort, direction)[:100]


async def test_commit_prefix_and_dates(listing: Ask, runs: list[RunProjection]):
    answer = await listing(sha="aaaa", pageSize=100)
    assert set(ids(answer)) == {run.run_id for run in runs if run.sha.startswith("aaaa")}
    since, until = kit.NOON + timedelta(seconds=30), kit.NOON + timedelta(seconds=60)
    answer = await listing(since=since.isoformat(), until=until.isoformat(), pageSize=100)
    assert set(ids(answer)) == {run.run_id for run in runs if since <= (run.created_at) <= until}


@pytest.mark.parametrize(
    ("words", "matches"),
    [
        ("PARSER", lambda run: "parser" in run.commit_message),
        ("100%_", lambda run: "100%_done" in run.commit_message),
        ("change 77:", lambda run: "Change 77:" in run.commit_message),
        ("al", lambda run: run.triggered_by == "alice"),
        ("feature/x", lambda run: run.branch == "feature/x"),
        ("nothing like it", lambda run: False),
        ("bbbbbbbb", lambda run: run.sha.startswith("b")),
    ],
)
async def test_the_search_box(
    listing: Ask, runs: list[RunProjection], words: str, matches: Callable[[RunProjection], bool]
):
    answer = await listing(q=words, pageSize=100)
    assert set(ids(answer)) == {run.run_id for run in runs if matches(run)}
    narrowed = await listing(q=words, status="success", pageSize=100)
    assert set(ids(narrowed)) == {
        run.run_id for run in runs if matches(run) and run.display_status == "success"
    }


async def test_a_run_id_finds_its_run(listing: Ask, runs: list[RunProjection]):
    assert ids(await listing(q=runs[5].run_id)) == [runs[5].run_id]


async def test_filter_options_are_what_there_is(listing: Ask, runs: list[RunProjection]):
    answer = await listing("/runs/filters")
    assert answer["statuses"] == sorted({run.display_status for run in runs})
    assert answer["workflows"] == ["ci", "deploy", "nightly"]
    assert answer["branches"] == ["dev", "feature/x", "main"]
    assert answer["repositories"] == ["demo/app", "demo/lib"]
    assert answer["triggerTypes"] == ["pull_request", "push"]
    assert [source["name"] for source in answer["sources"]] == ["hooks", "local"]


@pytest.mark.parametrize(
    "words",
    [
        ["failed"],
        ["error"],
        ["timed_out"],
        ["cancelled"],
        ["failed", "cancelled"],
        ["failed", "error"],
        ["failed", "timed_out"],
        ["error", "cancelled"],
        ["error", "success"],
        ["timed_out", "success"],
        ["failed", "error", "timed_out", "running"],
    ],
)
async def test_a_status_finds_what_a_run_has_or_is_shown_as(
    listing: Ask, runs: list[RunProjection], words: list[str]
):
    expected = [run for run in runs if run.status in words or run.display_status in words]
    answer = await listing(status=words, pageSize=100)
    assert ids(answer) == expected_order(expected, "createdAt", "desc")


async def test_groups_hold_all_runs_of_a_commit(listing: Ask, runs: list[RunProjection]):
    groups: list[Any] = []
    for page in (1, 2, 3, 4, 5):
        answer = await listing("/runs/by-commit", page=page, pageSize=5)
        groups += answer["groups"]
        assert answer["hasMore"] is (len(groups) < answer["total"])
    commits = {(run.sha, run.repo_identifier) for run in runs}
    assert len(groups) == answer["total"] == len(commits)
    assert {(group["sha"], group["repository"]) for group in groups} == commits
    newest = [max(run["createdAt"] for run in group["runs"]) for group in groups]
    assert newest == sorted(newest, reverse=True)
    for group in groups:
        members = [
            run for run in runs if (run.sha, run.repo_identifier) == (group["sha"], group["repository"])
        ]
        assert {run["runId"] for run in group["runs"]} == {run.run_id for run in members}
        assert sum(group["statuses"].values()) == len(members)


async def test_counts_are_capped(
    platform_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[RunProjection]
):
    monkeypatch.setattr(queries, "COUNT_CAP", 50)
    async with platform_db.engine.begin() as tx:
        items = [kit.item(rev, run.run_id, run=run) for rev, run in enumerate(runs, 1)]
        await projection.apply(tx, kit.ORG, "default", items)
    async with kit.platform(platform_db, tmp_path) as served, served.client() as http:
        answer = (await http.get(served.api + "/runs", params={"page": 6})).json()
        assert (answer["total"], answer["totalIsCapped"]) == (50, True)
        assert ids(answer) == expected_order(runs, "createdAt", "desc")[100:120]


async def test_nonsense_is_refused_with_the_field(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path) as served, served.client() as http:
        for field, value in (
            ("sort", "name"),
            ("dir", "up"),
            ("page", "0"),
            ("pageSize", "1000"),
            ("sha", "xyz"),
            ("since", "soon"),
        ):
            answer = await http.get(served.api + "/runs", params={field: value})
            assert answer.status_code == 400
            body = answer.json()
            assert set(body) == {"error", "code", "details", "traceId"}
            assert [detail["field"] for detail in body["details"]] == [field]
        answer = await http.get(served.api + "/runs", params={"status": "faild"})
        assert answer.status_code == 400
        assert "'faild' is unknown: it is one of pending, queued," in answer.json()["error"]
