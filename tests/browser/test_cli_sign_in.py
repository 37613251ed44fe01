"""`kici login` with a real browser: sign in, approve, and back to the program that waits (AU-140, PD-48)."""

import subprocess
import sys
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.pages import sign_in
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.timeout(180)]


def login(stack: Stack, home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "kici.cli.main",
            "login",
            "--platform-endpoint",
            stack.platform_url,
            *arguments,
        ],
        env={**stack.environment, "KICI_CONFIG_DIR": str(home), "KICI_BROWSER_CMD": "none"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(stream: IO[str] | None, holding: str) -> str:
    assert stream is not None
    for line in stream:
        if holding in line:
            return line.strip()
    raise AssertionError(f"it ended without {holding!r}")


def test_a_stranger_signs_in_approves_and_is_led_back(browser: Browser, stack: Stack, tmp_path: Path):
    """The page of the Platform lets its form lead to the waiting program, whatever browsers hold against it."""
    process = login(stack, tmp_path)
    url = read_until(process.stdout, "KICI_AUTH_URL=").removeprefix("KICI_AUTH_URL=")
    context = browser.new_context()
    page = context.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    page.goto(url)
    expect(page.get_by_label("E-mail")).to_be_visible()
    wanted = parse_qs(urlsplit(page.url).query)["next"][0]
    sign_in(page, stack)  # by link: the account of this stack has a password only later
    page.goto(stack.platform_url + wanted)
    expect(page.get_by_role("heading", name="Sign in the command line")).to_be_visible()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("You are signed in")).to_be_visible()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, "Signed in to" in out) == (0, True), err
    assert not any("Content Security Policy" in text for text in refused), refused
    context.close()


def test_a_code_is_typed_and_approved(anonymous: Page, stack: Stack, tmp_path: Path):
    """RFC 8628: in any browser, in lower case and without the dash."""
    process = login(stack, tmp_path, "--device")
    code = read_until(process.stderr, "-").replace("-", "").lower()
    sign_in(anonymous, stack)
    anonymous.goto(f"{stack.platform_url}/device")
    anonymous.get_by_label("Code").fill(code)
    anonymous.get_by_role("button", name="Continue").click()
    expect(anonymous.get_by_text("your own terminal shows this very code")).to_be_visible()
    anonymous.get_by_role("button", name="Approve").click()
    expect(anonymous.get_by_role("heading", name="Signed in")).to_be_visible()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, "Signed in to" in out) == (0, True), err
