"""The dashboard in a real browser against a real stack (PD-82…PD-146, as far as they exist)."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.pages import Push, lines, row, runs_url, sign_in, surface
from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.timeout(180)]

AXE = Path(__file__).resolve().parents[2] / "dashboard" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def good(stack: Stack, push: Push) -> str:
    run_id = push("good", "A good change")
    assert stack.wait_for_end(run_id)["run"]["status"] == "success"
    return run_id


@pytest.fixture(scope="module")
def bad(stack: Stack, push: Push) -> str:
    run_id = push("bad", "A bad change")
    assert stack.wait_for_end(run_id)["run"]["status"] == "failed"
    return run_id


@pytest.fixture
def live(stack: Stack, push: Push, release: Path) -> Any:
    """A run that prints until `release` exists."""
    release.unlink(missing_ok=True)
    run_id = push("live", "Something that takes its time")
    yield run_id
    release.touch()
    stack.wait_for_end(run_id)


# ── signing in ───────────────────────────────────────────────────────────────────────────────────


def test_a_stranger_is_sent_to_sign_in_and_back_to_where_they_wanted(
    anonymous: Page, browser: Browser, stack: Stack
):
    """PD-95, PD-96: password set on the account page, then used; a wrong one says so at the field."""
    sign_in(anonymous, stack)
    anonymous.goto(f"{stack.platform_url}/account")
    anonymous.get_by_label("New password", exact=True).fill("correct horse battery")
    anonymous.get_by_label("New password again").fill("correct horse battery")
    anonymous.get_by_role("button", name="Set password").click()
    expect(anonymous.get_by_text("Password set")).to_be_visible()
    email = anonymous.get_by_label("E-mail").input_value()

    context = browser.new_context()
    stranger = context.new_page()
    stranger.goto(runs_url(stack, "?status=failed"))
    expect(stranger.get_by_test_id("page-login")).to_be_visible()
    stranger.get_by_label("E-mail").fill(email)
    stranger.get_by_label("Password", exact=True).fill("wrong horse battery")
    stranger.get_by_role("button", name="Sign in").click()
    expect(stranger.get_by_text("E-mail or password is wrong.")).to_be_visible()
    stranger.get_by_label("Password", exact=True).fill("correct horse battery")
    stranger.get_by_role("button", name="Sign in").click()
    expect(stranger.get_by_test_id("page-runs")).to_be_visible()
    assert stranger.url.endswith("/runs?status=failed")
    assert "kici_session" not in stranger.evaluate("JSON.stringify(localStorage) + document.cookie")

    stranger.get_by_role("button", name="operator").click()
    stranger.get_by_role("menuitem", name="Sign out").click()
    expect(stranger.get_by_test_id("page-login")).to_be_visible()
    context.close()


# ── the run list ─────────────────────────────────────────────────────────────────────────────────


def test_the_list_shows_runs_with_all_columns(page: Page, stack: Stack, good: str, bad: str):
    """PD-100, PD-101, PD-108."""
    expect(row(page, good).get_by_text("Success")).to_be_visible()
    expect(row(page, bad).get_by_text("Failed")).to_be_visible()
    for heading in ("Status", "Trigger", "Workflow", "Branch", "Commit", "Duration", "Time"):
        expect(page.get_by_role("columnheader", name=heading)).to_be_visible()
    sha = stack.detail(good)["run"]["sha"]
    expect(row(page, good).get_by_text(sha[:7])).to_be_visible()
    expect(row(page, good).get_by_text("A good change")).to_be_visible()
    expect(row(page, good).get_by_role("img", name="Push")).to_be_visible()
    expect(page.get_by_test_id("range")).to_contain_text(re.compile(r"Showing 1-\d+ of \d+ runs"))
    row(page, good).get_by_role("link", name="good").click()
    expect(page.get_by_test_id("page-run")).to_be_visible()


def test_filters_and_sorting_live_in_the_url(page: Page, stack: Stack, good: str, bad: str):
    """PD-103, PD-104, PD-109."""
    page.get_by_role("button", name="Status", exact=True).first.click()
    page.get_by_role("option", name="Failed").click()
    expect(page).to_have_url(re.compile(r"status=failed"))
    expect(row(page, bad)).to_be_visible()
    expect(row(page, good)).to_have_count(0)
    page.reload()
    expect(row(page, bad)).to_be_visible()
    expect(row(page, good)).to_have_count(0)
    page.get_by_role("button", name="Clear filters").click()
    expect(row(page, good)).to_be_visible()
    assert "status" not in page.url

    page.get_by_role("button", name="Workflow").last.click()
    expect(page).to_have_url(re.compile(r"sort=workflowName&dir=desc"))
    heading = page.get_by_role("columnheader", name="Workflow")
    expect(heading).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Workflow").last.click()
    expect(heading).to_have_attribute("aria-sort", "ascending")

    page.goto(runs_url(stack, "?branch=nowhere"))
    expect(page.get_by_text("No matching runs")).to_be_visible()


def test_columns_are_hidden_for_good(page: Page, good: str):
    """PD-105."""
    page.get_by_role("button", name="Toggle columns").click()
    page.get_by_role("menuitemcheckbox", name="Branch").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("columnheader", name="Branch")).to_have_count(0)
    page.reload()
    expect(row(page, good)).to_be_visible()
    expect(page.get_by_role("columnheader", name="Branch")).to_have_count(0)


def test_runs_group_by_commit(page: Page, stack: Stack, good: str):
    """PD-106."""
    page.get_by_role("switch", name="Group by commit").check(force=True)
    expect(page).to_have_url(re.compile(r"group=commit"))
    sha = stack.detail(good)["run"]["sha"]
    group = page.locator(f"[data-sha='{sha}']")
    expect(group.get_by_role("button", name="A good change")).to_be_visible()
    expect(group.get_by_role("img", name=re.compile("1 run: 1 success"))).to_be_visible()
    group.get_by_role("button", name="A good change").click()
    expect(row(page, good)).to_have_count(0)


def test_a_push_appears_by_itself_and_ends_by_itself(
    page: Page, stack: Stack, push: Push, release: Path, good: str
):
    """PD-110: no reload between the push and the green badge."""
    expect(page.get_by_test_id("live-dot")).to_have_attribute("data-state", "open")
    release.unlink(missing_ok=True)
    run_id = push("live2", "Watch me")
    expect(row(page, run_id)).to_have_attribute("data-status", "running")
    release.touch()
    expect(row(page, run_id)).to_have_attribute("data-status", "success")


def test_a_new_run_does_not_move_the_row_under_the_pointer(
    page: Page, stack: Stack, push: Push, release: Path, good: str
):
    """PD-110."""
    release.touch()
    row(page, good).hover()
    run_id = push("live2", "Wait outside")
    pill = page.get_by_role("button", name="1 new run")
    expect(pill).to_be_visible()
    expect(row(page, run_id)).to_have_count(0)
    page.get_by_role("heading", name="Runs").hover()
    expect(row(page, run_id)).to_be_visible()
    expect(pill).to_have_count(0)


# ── run detail ───────────────────────────────────────────────────────────────────────────────────


def test_a_failed_run_opens_at_what_failed(page: Page, stack: Stack, bad: str):
    """PD-118, PD-125: the failed step is selected and the end of its log in view."""
    page.goto(runs_url(stack, f"/{bad}"))
    expect(page.get_by_role("heading", name="bad", level=1)).to_be_visible()
    expect(page.get_by_test_id("failure")).to_be_visible()
    step = page.get_by_role("treeitem", name="break-something")
    expect(step).to_have_attribute("aria-selected", "true")
    expect(surface(page).get_by_text("this is the reason", exact=True)).to_be_in_viewport()
    expect(page.get_by_test_id("completion")).to_contain_text("Failed")
    expect(page.get_by_test_id("completion")).to_contain_text("exit code 3")
    page.get_by_role("treeitem", name="never").click()
    expect(page.get_by_text("No output")).to_be_visible()


def test_the_tree_is_worked_by_keyboard_and_the_url_follows(page: Page, stack: Stack, good: str):
    """PD-121, PD-122."""
    page.goto(runs_url(stack, f"/{good}"))
    tree = page.get_by_role("tree")
    expect(tree.get_by_role("treeitem", name="colours (2 variants)")).to_be_visible()
    tree.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]+$"))
    expect(page.locator("[data-step]").first).to_be_visible()  # combined view, with its headers
    item = tree.get_by_role("treeitem", name="check-out-colours").first
    item.click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]+/steps/0$"))
    expect(item).to_have_attribute("aria-selected", "true")
    deep = page.url
    page.go_back()
    expect(item).to_have_attribute("aria-selected", "false")
    page.goto(deep)
    expect(tree.get_by_role("treeitem", name="check-out-colours").first).to_have_attribute(
        "aria-selected", "true"
    )
    tree.focus()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]+$"))


def test_every_tab_and_panel_shows_this_run(page: Page, stack: Stack, good: str):
    """PD-112, PD-114, PD-142…PD-146; three panels wide, a drawer below, a tab on a phone."""
    detail = stack.detail(good)
    page.goto(runs_url(stack, f"/{good}"))
    expect(page.get_by_test_id("metadata").get_by_text(good)).to_be_visible()
    page.get_by_role("tab", name="Timeline").click()
    expect(page.get_by_test_id("timeline").get_by_role("button")).to_have_count(2)
    page.get_by_role("tab", name="Graph").click()
    expect(page.get_by_test_id("graph").locator(".react-flow__node")).to_have_count(2)
    page.get_by_role("tab", name="Summary").click()
    expect(page.get_by_test_id("summary").get_by_text(detail["run"]["triggerReason"])).to_be_visible()
    if detail["run"]["hasPayload"]:
        page.get_by_role("tab", name="Payload").click()
        expect(page.get_by_test_id("payload")).to_be_visible()
    page.set_viewport_size({"width": 900, "height": 900})
    expect(page.get_by_test_id("metadata")).to_have_count(0)
    page.get_by_role("button", name="Show metadata").click()
    expect(page.get_by_test_id("metadata").get_by_text(good)).to_be_visible()
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("tab", name="Metadata").click()
    expect(page.get_by_test_id("metadata").get_by_text(good)).to_be_visible()
    page.get_by_role("navigation", name="Breadcrumb").get_by_role("link", name="Runs").click()
    expect(page.get_by_test_id("page-runs")).to_be_visible()


@pytest.mark.parametrize("width", [360, 390, 900, 1440, 2560])
def test_no_page_scrolls_sideways(page: Page, stack: Stack, good: str, width: int):
    """PD-85."""
    page.set_viewport_size({"width": width, "height": 800})
    for path in (
        "runs",
        "runs?group=commit",
        f"runs/{good}",
        "workflows",
        "deliveries",
        "diagnostics",
        "settings",
    ):
        page.goto(f"{stack.platform_url}/orgs/{stack.org_id}/{path}")
        page.get_by_role("heading", level=1).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        content = page.locator("#content")
        assert content.evaluate("node => node.scrollWidth - node.clientWidth") <= 0, path


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────


def test_colours_progress_permalinks_and_search(page: Page, stack: Stack, good: str):
    """PD-131…PD-135."""
    job = next(job for job in stack.detail(good)["jobs"])
    page.goto(runs_url(stack, f"/{good}/jobs/{job['jobId']}/steps/0"))
    red = surface(page).get_by_text("red", exact=True)
    expect(red).to_have_class("ansi-red-fg")
    expect(surface(page).locator("[data-line='2']")).to_contain_text("100%")
    expect(surface(page).locator("[data-line='2']")).not_to_contain_text("50%")

    page.locator("[data-number='5']").click()
    expect(page).to_have_url(re.compile(r"#L5$"))
    expect(page.locator("[data-line='5']")).to_have_attribute("data-selected", "true")
    page.goto(page.url.replace("#L5", "#L300"))
    page.reload()
    expect(page.locator("[data-line='300']")).to_be_in_viewport()
    expect(page.locator("[data-line='300']")).to_have_attribute("data-selected", "true")

    page.keyboard.press("/")
    search = page.get_by_label("Search log")
    expect(search).to_be_focused()
    search.fill("399")
    count = page.get_by_test_id("match-count")
    expect(count).to_have_text("1 of 1")
    expect(surface(page).locator("mark")).to_be_in_viewport()
    search.fill("39")
    expect(count).to_have_text(re.compile(r"1 of 1[0-9]$"))
    search.press("Shift+Enter")  # around to the last
    total = (count.text_content() or "").split(" of ")[1]
    expect(count).to_have_text(f"{total} of {total}")
    search.press("Escape")
    expect(count).to_have_count(0)

    page.get_by_role("button", name="Toggle timestamps").click()
    expect(surface(page).locator("[data-time]").first).to_have_attribute(
        "data-time", re.compile(r"\d\d:\d\d:\d\d\.\d{3}")
    )


def test_a_million_lines_stay_reachable(page: Page, stack: Stack, push: Push):
    """PD-130, PD-134, PD-138: few nodes, any line by its number, both ends."""
    run_id = push("long", "Talk a lot")
    detail = stack.wait_for_end(run_id, within_seconds=120)
    assert detail["run"]["status"] == "success"
    job_id = detail["jobs"][0]["jobId"]
    page.goto(runs_url(stack, f"/{run_id}/jobs/{job_id}/steps/0#L654321"))
    expect(surface(page).locator("[data-line='654321']")).to_be_in_viewport()
    expect(surface(page).locator("[data-line='654321']")).to_contain_text("line 654321")
    eventually(lambda: lines(page) == 1_000_000, what="all lines known")
    assert surface(page).locator("[data-row]").count() < 120
    surface(page).focus()
    page.keyboard.press("End")
    expect(surface(page).locator("[data-line='1000000']")).to_contain_text("line 1000000")
    page.keyboard.press("Home")
    expect(surface(page).locator("[data-line='1']")).to_contain_text("line 1")


def test_live_logs_follow_pause_and_end(page: Page, stack: Stack, live: str, release: Path):
    """PD-136, PD-137."""
    page.goto(runs_url(stack, f"/{live}"))
    expect(page.get_by_test_id("streaming")).to_be_visible()
    expect(surface(page).locator("[data-line]").last).to_be_in_viewport()
    eventually(lambda: lines(page) > 60, what="a log longer than the view")
    page.wait_for_function(
        "before => document.querySelector('[data-testid=log-surface]').dataset.lines > before",
        arg=lines(page),
    )
    surface(page).hover()
    page.mouse.wheel(0, -600)
    jump = page.get_by_role("button", name="Jump to bottom")
    expect(jump).to_be_visible()
    top = surface(page).evaluate("node => node.scrollTop")
    page.wait_for_function(
        "before => document.querySelector('[data-testid=log-surface]').dataset.lines > before",
        arg=lines(page),
    )
    assert surface(page).evaluate("node => node.scrollTop") == top
    jump.click()
    expect(jump).to_have_count(0)
    release.touch()
    expect(surface(page).get_by_text("released")).to_be_in_viewport()
    expect(page.get_by_test_id("completion")).to_contain_text("Success")
    expect(page.get_by_test_id("streaming")).to_have_count(0)
    job = stack.detail(live)["jobs"][0]
    stored = sum(stack.log(live, job["jobId"], step["stepIndex"]).count(b"\n") for step in job["steps"])
    expect(page.get_by_test_id("completion")).to_contain_text(f"{stored:,} lines")


def test_a_running_job_is_cancelled_from_its_page(page: Page, stack: Stack, live: str):
    """PD-116."""
    page.goto(runs_url(stack, f"/{live}"))
    expect(surface(page).get_by_text("tick 1", exact=True)).to_be_visible()
    page.get_by_test_id("cancel").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("live")
    dialog.get_by_role("button", name="Cancel run").click()
    expect(page.locator("header [data-status='cancelled']")).to_be_visible()
    expect(page.get_by_test_id("cancel")).to_have_count(0)


# ── when something is away ───────────────────────────────────────────────────────────────────────


def test_a_lost_connection_comes_back_and_misses_nothing(
    page: Page, stack: Stack, live: str, release: Path
):
    """PD-72, PD-70: offline while the log grows and the run ends; then everything is there."""
    page.goto(runs_url(stack, f"/{live}"))
    expect(surface(page).get_by_text("tick 2", exact=True)).to_be_visible()
    dot = page.get_by_test_id("live-dot")
    old = stack.kill("platform")
    expect(dot).not_to_have_attribute("data-state", "open")
    release.touch()
    stack.wait_back("platform", old)
    expect(dot).to_have_attribute("data-state", "open", timeout=40_000)
    expect(page.locator("header [data-status='success']")).to_be_visible()
    expect(page.get_by_test_id("completion")).to_be_visible()
    raw = stack.log(live, stack.detail(live)["jobs"][0]["jobId"], 0)
    last = raw.decode().splitlines()[-1]
    expect(surface(page).get_by_text(last, exact=True)).to_be_visible()
    expect(page.get_by_test_id("banner-unreachable")).to_have_count(0)


def test_where_no_websocket_gets_through_pages_ask_from_time_to_time(
    anonymous: Page, stack: Stack, push: Push, release: Path
):
    """PD-72: a proxy that refuses upgrades; the list still changes, and nothing is called unreachable."""
    anonymous.route_web_socket(re.compile("/ws/dashboard"), lambda socket: socket.close())
    sign_in(anonymous, stack)
    expect(anonymous.get_by_test_id("live-dot")).not_to_have_attribute("data-state", "open")
    release.touch()
    run_id = push("live2", "Behind a proxy")
    expect(row(anonymous, run_id)).to_have_attribute("data-status", "success", timeout=40_000)
    expect(anonymous.get_by_test_id("banner-unreachable")).to_have_count(0)


def test_without_orchestrator_pages_say_so_and_work_from_the_projection(page: Page, stack: Stack, bad: str):
    """PD-139, PD-17. The supervisor is paused, so that the killed orchestrator stays away."""
    assert stack.process is not None
    stack.process.send_signal(signal.SIGSTOP)
    try:
        old = stack.kill("orchestrator")
        page.goto(runs_url(stack))
        expect(page.get_by_test_id("banner-orchestrator")).to_be_visible(timeout=30_000)
        expect(row(page, bad)).to_be_visible()
        row(page, bad).get_by_role("link", name="bad").click()
        expect(page.get_by_test_id("away-note")).to_be_visible(timeout=30_000)
        expect(page.get_by_role("treeitem", name="Failed broken")).to_be_visible()
        expect(
            page.get_by_text("Log content is served by the orchestrator, which is currently offline")
        ).to_be_visible(timeout=30_000)
    finally:
        stack.process.send_signal(signal.SIGCONT)
    stack.wait_back("orchestrator", old)
    expect(page.get_by_test_id("banner-orchestrator")).to_have_count(0, timeout=60_000)
    expect(surface(page).get_by_text("this is the reason", exact=True)).to_be_visible(timeout=30_000)


# ── everything else ──────────────────────────────────────────────────────────────────────────────


def test_the_other_pages_have_their_data(page: Page, stack: Stack, good: str):
    """PD-147, PD-152, and why a delivery started a run."""
    base = f"{stack.platform_url}/orgs/{stack.org_id}"
    page.goto(f"{base}/workflows")
    expect(
        page.get_by_role("table", name="Workflows").get_by_role("button", name="good", expanded=False)
    ).to_be_visible()
    page.goto(f"{base}/diagnostics")
    expect(page.get_by_role("table", name="Agents").get_by_text("idle").first).to_be_visible()
    page.goto(f"{base}/deliveries")
    table = page.get_by_role("table", name="Deliveries")
    expect(table.get_by_text("1 run started").first).to_be_visible()
    table.get_by_role("button", name="push").first.click()
    expect(page.get_by_text("Request ID")).to_be_visible()


def test_access_tokens_are_shown_once_and_revoked(page: Page, stack: Stack):
    """PD-196."""
    page.goto(f"{stack.platform_url}/orgs/{stack.org_id}/settings/tokens")
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_text(re.compile(r"^kici_pat_\S{30,}"))).to_be_visible()
    page.reload()
    expect(page.get_by_text(re.compile(r"^kici_pat_\S{30,}"))).to_have_count(0)
    token = page.get_by_role("row", name="laptop")
    token.get_by_role("button", name="Revoke").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("laptop")
    dialog.get_by_role("button", name="Revoke").click()
    expect(token).to_have_count(0)


def test_keys_lead_everywhere(page: Page, good: str):
    """The keyboard table of §14."""
    page.keyboard.press("?")
    expect(page.get_by_role("dialog").get_by_text("Command palette")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("w")
    expect(page.get_by_test_id("page-workflows")).to_be_visible()
    page.keyboard.press("Control+k")
    page.get_by_label("Command palette").fill(good)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("page-run")).to_be_visible()


def test_the_theme_is_remembered_and_there_before_the_first_paint(page: Page, stack: Stack):
    """PD-90: the attribute is set while the document is still being read."""
    page.get_by_role("button", name="Theme").click()
    page.get_by_role("menuitemradio", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    assert page.evaluate("localStorage.getItem('kici:theme')") == "dark"
    page.context.route("**/assets/*.js", lambda route: route.abort())
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")


def test_unknown_addresses_say_so(page: Page, stack: Stack):
    """PD-95, PD-113."""
    page.goto(f"{stack.platform_url}/nowhere/at/all")
    expect(page.get_by_text("Page not found")).to_be_visible()
    page.goto(runs_url(stack, "/01890000-0000-7000-8000-000000000000"))
    expect(page.get_by_text("Run not found")).to_be_visible()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_serious(page: Page, stack: Stack, good: str, bad: str, scheme: Any):
    """PD-83."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    base = f"{stack.platform_url}/orgs/{stack.org_id}"
    found: list[str] = []
    for path in (
        "/runs",
        "/runs?group=commit",
        f"/runs/{bad}",
        f"/runs/{good}?tab=timeline",
        f"/runs/{good}?tab=summary",
        "/workflows",
        "/deliveries",
        "/diagnostics",
        "/settings/tokens",
        "/settings/orchestrators",
    ):
        page.goto(base + path)
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_load_state("networkidle")
        page.evaluate(AXE.read_text())
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            f"{path}: {violation['id']}: {[node['target'] for node in violation['nodes']][:3]}"
            for violation in result["violations"]
            if violation["impact"] in {"serious", "critical"}
        ]
    assert found == []
