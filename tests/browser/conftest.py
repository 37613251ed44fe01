"""A real stack and a real Chromium, each once for this folder.

Playwright's synchronous interface keeps an event loop running in the main thread, which no other test
may find: hence scope "package", not "session".
"""

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.browser.pages import Push, sign_in
from tests.support.stack import Repository, Stack

ARTIFACTS = Path(__file__).resolve().parent.parent / "artifacts"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# `release` lets the waiting steps of these workflows end: a file that they look for.
WORKFLOWS = """
from kici import Context, job, push, step, workflow


@step
async def check_out_colours(ctx: Context) -> None:
    await ctx.sh(r"printf '\\033[31mred\\033[0m plain\\n'; printf '10%%\\r50%%\\r100%%\\n'; seq 1 400")


@step
async def break_something(ctx: Context) -> None:
    await ctx.sh("seq -f 'before %.0f' 1 60; echo this is the reason; exit 3")


colours = job("colours", runs_on="kici:os:linux", matrix={"shade": ["light", "dark"]}, steps=[check_out_colours])
broken = job("broken", runs_on="kici:os:linux", steps=[check_out_colours, break_something])


@job(runs_on="kici:os:linux", needs=[broken])
async def never(ctx: Context) -> None:
    await ctx.sh("true")


@job(runs_on="kici:os:linux")
async def million(ctx: Context) -> None:
    await ctx.sh("seq -f 'line %.0f' 1 1000000")


@job(runs_on="kici:os:linux")
async def slow(ctx: Context) -> None:
    await ctx.sh('n=0; until [ -e "$release" ]; do n=$((n+1)); echo "tick $n"; sleep 0.04; done; echo released', release=RELEASE)


good = workflow("good", on=push(branches="good"), jobs=[colours])
bad = workflow("bad", on=push(branches="bad"), jobs=[broken, never])
long = workflow("long", on=push(branches="long"), jobs=[million])
live = workflow("live", on=push(branches=["live", "live2"]), jobs=[slow])
"""


@pytest.fixture(scope="package")
def stack() -> Generator[Stack]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with Stack.started(agents=2) as running:
        yield running


@pytest.fixture(scope="package")
def release(stack: Stack) -> Path:
    """Created by a test, it ends every `slow` job."""
    return stack.data_dir.parent / "release"


@pytest.fixture(scope="package")
def repository(stack: Stack, release: Path) -> Repository:
    shop = stack.repository("shop", {"ci.py": WORKFLOWS.replace("RELEASE", repr(str(release)))})
    shop.push("Register the workflows")  # the default branch does; it starts nothing
    return shop


@pytest.fixture(scope="package")
def push(stack: Stack, repository: Repository) -> Push:
    """push(branch, message) → the id of the run that it started."""

    def push_to(branch: str, message: str) -> str:
        sha = repository.push(message, branch=branch)
        return str(stack.find_run(sha=sha)["runId"])

    return push_to


@pytest.fixture(scope="package")
def playwright() -> Generator[Playwright]:
    expect.set_options(timeout=15_000)
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Generator[Browser]:
    launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield launched
    launched.close()


@pytest.fixture
def anonymous(browser: Browser, request: pytest.FixtureRequest) -> Generator[Page]:
    """A page in a fresh context; what its console complains of fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, timezone_id="UTC")
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    if getattr(request.node, "failed", False):
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{request.node.name}.png")
    context.close()
    assert complaints == []


@pytest.fixture
def page(anonymous: Page, stack: Stack) -> Page:
    """Signed in by a one-time link."""
    sign_in(anonymous, stack)
    return anonymous


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, None]:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        item.failed = True  # pyright: ignore[reportAttributeAccessIssue]
