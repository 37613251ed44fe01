"""Takes pictures of the dashboard: a real stack, a repository with a few pushes, a real browser.

    python scripts/screenshots.py [--out FOLDER] [--docs]

Every page at 1440, 900 and 390 px in both themes goes to FOLDER (tests/artifacts/screenshots). `--docs`
also writes the two pictures of the README to docs/images.
"""

import argparse
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

from tests.support.stack import Repository, Stack  # noqa: E402

Theme = Literal["dark", "light"]
SIZES = {1440: 900, 900: 900, 390: 844}
THEMES: tuple[Theme, ...] = ("dark", "light")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

CI = '''"""Lint, tests on three Pythons, an image, and a deployment of what is green."""

from kici import Context, job, need, push, step, workflow


@step
async def install(ctx: Context) -> None:
    await ctx.sh("python3 tools/say.py install")


@step
async def run_tests(ctx: Context) -> None:
    await ctx.sh('python3 tools/say.py tests "$python"', python=ctx.matrix["python"])


@step
async def build_image(ctx: Context) -> dict[str, str]:
    await ctx.sh("python3 tools/say.py build")
    return {"image": "registry.example.org/shop:1.4.2"}


@step
async def push_image(ctx: Context) -> None:
    await ctx.sh("python3 tools/say.py push")


@job(runs_on="kici:os:linux")
async def lint(ctx: Context) -> None:
    await ctx.sh("python3 tools/say.py lint")


test = job("test", runs_on="kici:os:linux", matrix={"python": ["3.11", "3.12", "3.13"]}, steps=[install, run_tests])
build = job("build", runs_on="kici:os:linux", needs=[lint], steps=[build_image, push_image])


@job(runs_on="kici:os:linux", needs=[test, build])
async def deploy(ctx: Context) -> None:
    await ctx.sh("python3 tools/say.py deploy")


@job(runs_on="kici:os:linux", needs=[need(test, when="always")])
async def notify(ctx: Context) -> None:
    await ctx.sh("echo posted to '#shop-builds'")


ci = workflow("ci", on=push(branches=["main", "fix/*", "feat/*"]), jobs=[lint, test, build, deploy, notify])
'''

SOAK = """from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def soak(ctx: Context) -> None:
    await ctx.sh("python3 tools/say.py soak")


soak_test = workflow("soak", on=push(branches="soak"), jobs=[soak])
"""

DOCS = """from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def links(ctx: Context) -> None:
    await ctx.sh("python3 tools/say.py lint")


docs = workflow("docs", on=push(branches="main"), jobs=[links])
"""

# Speaks like the tools of a real project; `broken` in the checkout makes one test fail.
SAY = r"""import os
import sys
import time

GREEN, RED, CYAN, YELLOW, BOLD, OFF = "\033[32m", "\033[31m", "\033[36m", "\033[33m", "\033[1m", "\033[0m"


def say(text="", pause=0.0):
    print(text, flush=True)
    time.sleep(pause)


def tests(python):
    broken = os.path.exists("broken") and python == "3.12"
    say(f"{BOLD}============================= test session starts =============================={OFF}")
    say(f"platform linux -- Python {python}, pytest-8.4.1, pluggy-1.6.0")
    say("collected 96 items\n", 0.2)
    modules = ["accounts", "basket", "catalogue", "payments", "refunds", "search"]
    for number in range(96):
        module = modules[number * len(modules) // 96]
        say(f"tests/test_{module}.py::test_{module}_{number:02d} {GREEN}PASSED{OFF} {GREEN}[{(number + 1) * 100 // 96:3d}%]{OFF}", 0.02)
    if broken:
        say(f"\n=================================== FAILURES ===================================")
        say(f"{RED}{BOLD}___________________________ test_refund_is_idempotent ___________________________{OFF}\n")
        say("    def test_refund_is_idempotent(client):")
        say('        first = client.post("/refunds", json={"order": 7})')
        say('        again = client.post("/refunds", json={"order": 7})')
        say(">       assert again.json() == first.json()")
        say(f"{RED}{BOLD}E       AssertionError: assert {{'status': 'duplicate'}} == {{'status': 'done'}}{OFF}\n")
        say(f"{RED}{BOLD}tests/test_refunds.py{OFF}:42: AssertionError")
        say(f"{CYAN}=========================== short test summary info ============================{OFF}")
        say(f"{RED}FAILED{OFF} tests/test_refunds.py::{BOLD}test_refund_is_idempotent{OFF} - AssertionError")
        say(f"{RED}========================= {BOLD}1 failed{OFF}, {GREEN}95 passed{OFF}{RED} in 2.31s ========================={OFF}")
        sys.exit(1)
    say(f"\n{GREEN}============================== {BOLD}96 passed{OFF}{GREEN} in 2.31s =============================={OFF}")


def soak():
    for number in range(1, 100_000):
        say(f"{GREEN}✓{OFF} iteration {number} · {number * 37 % 90 + 4} ms · {YELLOW}p95 {number * 13 % 40 + 60} ms{OFF}", 0.05)


def simple(*lines):
    def run():
        for line in lines:
            say(line, 0.25)

    return run


WORDS = {
    "install": simple("Resolved 48 packages in 12ms", f"{GREEN}Installed 48 packages in 31ms{OFF}"),
    "lint": simple("ruff format --check", "112 files already formatted", "ruff check", f"{GREEN}All checks passed!{OFF}"),
    "build": simple("#1 load build definition", "#2 FROM python:3.13-slim", "#5 COPY . /app", "#6 exporting layers", f"{GREEN}#7 naming to registry.example.org/shop:1.4.2 done{OFF}"),
    "push": simple("The push refers to repository [registry.example.org/shop]", "1.4.2: digest: sha256:9f2c…", f"{GREEN}pushed{OFF}"),
    "deploy": simple("Rolling out shop 1.4.2", "3 of 3 replicas are ready"),
    "tests": tests,
    "soak": soak,
}
WORDS[sys.argv[1]](*sys.argv[2:])
"""

HISTORY = [
    ("main", "Add pagination to the orders API", False),
    ("feat/search-index", "Speed up the search index", False),
    ("main", "Document the webhook format", False),
    ("fix/refund-race", "Refund twice at once", True),
    ("main", "Bump httpx to 0.28", False),
    ("fix/refund-race", "Retry refunds once", True),
]


def push(repository: Repository, branch: str, message: str, *, broken: bool) -> str:
    marker = repository.clone / "broken"
    if broken:
        marker.write_text("yes\n")
    else:
        marker.unlink(missing_ok=True)
    (repository.clone / "CHANGES").open("a").write(f"{message}\n")
    repository.commit(message)
    repository.git("push", "--quiet", "--force", "origin", f"HEAD:{branch}")
    return repository.git("rev-parse", "HEAD")


@contextmanager
def signed_in(
    browser: Browser, stack: Stack, width: int, height: int, theme: Theme, scale: float = 1
) -> Generator[Page]:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=scale
    )
    page = context.new_page()
    page.goto(stack.sign_in_url())
    page.get_by_test_id("page-runs").wait_for()
    yield page
    context.close()


def shoot(page: Page, path: Path) -> None:
    page.wait_for_load_state("networkidle")
    page.mouse.move(0, 0)
    page.wait_for_timeout(700)  # fonts and transitions
    page.screenshot(path=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "artifacts" / "screenshots")
    parser.add_argument("--docs", action="store_true", help="write docs/images, too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    with Stack.started(agents=4) as stack, sync_playwright() as playwright:
        shop = stack.repository("shop", {"ci.py": CI, "docs.py": DOCS, "soak.py": SOAK})
        shop.write({"tools/say.py": SAY})
        runs: dict[str, str] = {}
        for branch, message, broken in HISTORY:
            sha = push(shop, branch, message, broken=broken)
            runs["failed" if broken else "good"] = stack.wait_for_run(sha=sha, workflow="ci")["run"][
                "runId"
            ]
        sha = push(shop, "soak", "Soak the payment queue", broken=False)
        runs["live"] = stack.find_run(sha=sha)["runId"]

        pages = {
            "runs": "/runs",
            "runs-by-commit": "/runs?group=commit",
            "run-failed": f"/runs/{runs['failed']}",
            "run-live": f"/runs/{runs['live']}",
            "run-timeline": f"/runs/{runs['good']}?tab=timeline",
            "run-graph": f"/runs/{runs['good']}?tab=graph",
            "run-summary": f"/runs/{runs['good']}?tab=summary",
            "run-payload": f"/runs/{runs['good']}?tab=payload",
            "workflows": "/workflows",
            "deliveries": "/deliveries",
            "diagnostics": "/diagnostics",
            "settings": "/settings/orchestrators",
        }
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=ARGUMENTS
        )
        base = f"{stack.platform_url}/orgs/{stack.org_id}"
        for theme in THEMES:
            for width, height in SIZES.items():
                with signed_in(browser, stack, width, height, theme) as page:
                    for name, path in pages.items():
                        page.goto(base + path)
                        shoot(page, arguments.out / f"{name}-{width}-{theme}.png")
                print(f"{theme} {width} px: {len(pages)} pages in {arguments.out}", flush=True)
        if arguments.docs:
            images = ROOT / "docs" / "images"
            images.mkdir(parents=True, exist_ok=True)
            chosen: tuple[tuple[Theme, str, str], ...] = (
                ("light", "run-list-light", pages["runs"]),
                ("dark", "run-detail-dark", pages["run-failed"]),
            )
            for theme, name, path in chosen:
                with signed_in(browser, stack, 1280, 760, theme, scale=1.4) as page:
                    page.goto(base + path)
                    shoot(page, images / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
