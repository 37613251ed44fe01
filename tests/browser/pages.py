"""What several browser tests do and look at."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.support.stack import Stack

Push = Callable[[str, str], str]  # (branch, message) → the id of the run that the push started


def sign_in(page: Page, stack: Stack) -> None:
    """By a one-time link; ends on the run list."""
    page.goto(stack.sign_in_url())
    expect(page.get_by_test_id("page-runs")).to_be_visible()


def runs_url(stack: Stack, path: str = "") -> str:
    return f"{stack.platform_url}/orgs/{stack.org_id}/runs{path}"


def row(page: Page, run_id: str) -> Locator:
    """A run's row or card in the list."""
    return page.locator(f"[data-run='{run_id}']")


def surface(page: Page) -> Locator:
    """The scrolling part of the log viewer."""
    return page.get_by_test_id("log-surface")


def lines(page: Page) -> int:
    return int(surface(page).get_attribute("data-lines") or 0)
