"""Fixtures that every test folder shares.

`orchestrator_db` and `platform_db`: an empty, migrated database of that tier for one test, with an
engine on it (`.engine`) and its URL for programs that the test starts (`.url`).
"""

import os
from collections.abc import AsyncGenerator, Generator

import pytest

from kici.runtime import logging
from tests.support import postgres


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """As servers write them: the library's own default renders tracebacks for seconds."""
    logging.configure("tests", "tests", style="plain")


@pytest.fixture(scope="session")
def postgres_server() -> Generator[postgres.Server]:
    with postgres.serve() as server:
        yield server


@pytest.fixture(scope="session")
def orchestrator_template(postgres_server: postgres.Server) -> str:
    return postgres_server.template("orchestrator")


@pytest.fixture(scope="session")
def platform_template(postgres_server: postgres.Server) -> str:
    return postgres_server.template("platform")


@pytest.fixture
async def orchestrator_db(
    postgres_server: postgres.Server, orchestrator_template: str
) -> AsyncGenerator[postgres.Database]:
    async with postgres_server.clone(orchestrator_template) as database:
        yield database


@pytest.fixture
async def platform_db(
    postgres_server: postgres.Server, platform_template: str
) -> AsyncGenerator[postgres.Database]:
    async with postgres_server.clone(platform_template) as database:
        yield database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come last: Playwright's synchronous driver keeps an event loop running in this thread,
    and no asynchronous test can start one beside it."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where KICI_TEST_NO_SKIP is set (CI), a test that skips has failed."""
    report = yield
    if os.environ.get("KICI_TEST_NO_SKIP") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped, which is not allowed here: {report.longrepr}"
    return report
