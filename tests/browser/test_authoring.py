"""What authors may write, as the dashboard shows it (PD-115…PD-148, PD-202): setup rows, rules, generated jobs,
hooks, caches, checks, summaries, groups in logs; runs started again and by hand."""

import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.pages import lines, row, runs_url, surface
from tests.browser.test_dashboard import AXE
from tests.support.stack import Repository, Stack, eventually

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.timeout(180)]

# GATE is a file; what waits for it ends when it is there.
WORKFLOWS = '''
import time
from pathlib import Path
from typing import Annotated, Literal

from kici import (
    Cache, Concurrency, Context, GenerateContext, HookContext, Inputs, Meta, MultiJob, RuleContext, dispatch,
    dynamic_jobs, group, job, need, push, rule, schedule, step, workflow,
)

LINUX = "kici:os:linux"
GATE = Path(GATE_PATH)


@rule("only on Sundays")
def on_sundays(ctx: RuleContext) -> bool:
    return False


@rule("docs changed")
def docs_changed(ctx: RuleContext) -> bool:
    return True


releases_only = rule("releases only", lambda ctx: (ctx.event.target_branch or "").startswith("release/"))


@step
async def install(ctx: Context) -> None:
    await ctx.sh("mkdir -p .wheels; touch .wheels/a; echo before")
    with ctx.log.group("Resolve"):
        await ctx.sh("seq -f 'package-%.0f' 1 30")
    with ctx.log.group("Download"):
        with ctx.log.group("Mirror one"):
            await ctx.sh("seq -f 'fetched-%.0f' 1 5")
    ctx.log.info("installed")


@step(rules=[docs_changed])
async def check_links(ctx: Context) -> None:
    ctx.annotate("warning", "This link leads nowhere", file="docs/start.md", line=12)
    ctx.annotate("error", "Heading level skipped")
    ctx.summary("""## Links

| Page | Broken |
|---|---:|
| `start.md` | 1 |

<script>window.broken = 1</script><img src=x onerror="window.broken = 2">

[good](https://example.org/) [bad](javascript:window.broken=3)
""")


@step(rules=[on_sundays])
async def sweep(ctx: Context) -> None:
    await ctx.sh("true")


def note_end(ctx: HookContext) -> None:
    ctx.log.info("ended as %s", ctx.outcome.status)


checks = job(
    "checks", runs_on=LINUX, steps=[install, check_links, sweep], cleanup=note_end,
    cache=Cache(key="wheels-1", paths=[".wheels"]), description="Links and headings of every page",
)


@job(runs_on=LINUX)
async def discover(ctx: Context) -> list[str]:
    await ctx.set_secret_output("signing-key", "not-for-browsers")
    return ["index.md", "start.md"]


@step
async def check_page(ctx: Context, *, page: str) -> None:
    ctx.summary(f"checked {page}")


@dynamic_jobs("pages", needs=[discover])
async def pages(g: GenerateContext) -> list[MultiJob]:
    print("two pages")
    return [
        job(f"page-{number}", runs_on=LINUX, steps=[check_page.bind(page=page)])
        for number, page in enumerate(g.job_outputs(discover))
    ]


@job(runs_on=LINUX, needs=[group("pages")])
async def total(ctx: Context) -> None:
    await ctx.sh("true")


@job(runs_on=LINUX, needs=[need(checks, when="always")])
async def report(ctx: Context) -> None:
    await ctx.sh("true")


publish = job("publish", runs_on=LINUX, rules=[releases_only], steps=[install])
everything = workflow(
    "everything", on=push(branches="everything*"), jobs=[checks, discover, pages, total, report, publish],
    rules=[rule("always", lambda ctx: True)], cleanup=note_end,
)


def parts(g: GenerateContext) -> list[str]:
    print("looking for parts")
    while not GATE.exists():
        time.sleep(0.02)
    return ["web", "api", "text"]


@job(runs_on=LINUX, matrix=parts)
async def build(ctx: Context, *, value: str) -> None:
    await ctx.sh("true")


growing = workflow("growing", on=push(branches="growing"), jobs=[build])


@job(runs_on=LINUX)
async def talk(ctx: Context) -> None:
    with ctx.log.group("Warm up"):
        await ctx.sh('n=0; until [ -e "$gate" ]; do n=$((n+1)); echo "warm $n"; sleep 0.04; done', gate=str(GATE))
    ctx.log.info("after the group")
    with ctx.log.group("Quick"):
        ctx.log.info("nobody has seen this one open")


talking = workflow(
    "talking", on=push(branches="talking*"), jobs=[talk],
    concurrency=Concurrency(group="microphone", cancel_in_progress=False),
)


@job(runs_on=LINUX)
async def flood(ctx: Context) -> None:
    with ctx.log.group("First"):
        await ctx.sh("seq -f 'one %.0f' 1 200000")
    with ctx.log.group("Second"):
        await ctx.sh("seq -f 'two %.0f' 1 200000")
    ctx.log.info("done")


flooding = workflow("flooding", on=push(branches="flooding"), jobs=[flood])


async def look(ctx: Context) -> list[str] | None:
    return ["+ replicas: 3", "- replicas: 2"]


async def settled(ctx: Context) -> None:
    return None


@step(check=look, summarize="\\n".join)
async def scale(ctx: Context, drift: list[str]) -> None:
    await ctx.sh("echo scaled")


@step(check=settled, summarize=str)
async def network(ctx: Context, drift: str) -> None:
    await ctx.sh("false")


@step
async def announce(ctx: Context) -> None:
    await ctx.sh("echo announced")


class Deploy(Inputs):
    target: Literal["staging", "production"] = "staging"
    version: Annotated[str, Meta(pattern="^v[0-9]+$", description="Tag to deploy")]
    replicas: Annotated[int, Meta(ge=1, le=10)] = 2
    dry_run: bool = True


deploy = workflow(
    "deploy", on=dispatch(types="deploy", inputs=Deploy), jobs=[job("converge", runs_on=LINUX, steps=[scale, network, announce])]
)


@job(runs_on=LINUX)
async def audit(ctx: Context) -> None:
    await ctx.sh("true")


nightly = workflow("nightly", on=schedule(cron="30 4 * * *"), jobs=[audit])
'''


@pytest.fixture(scope="module")
def gate(stack: Stack) -> Path:
    return stack.data_dir.parent / "gate"


@pytest.fixture(scope="module")
def factory(stack: Stack, gate: Path) -> Repository:
    made = stack.repository("factory", {"all.py": WORKFLOWS.replace("GATE_PATH", repr(str(gate)))})
    made.push("Register the workflows")
    return made


@pytest.fixture(scope="module")
def everything(stack: Stack, factory: Repository) -> dict[str, Any]:
    """A finished run of it all; the second, so that its cache is filled."""
    first = stack.wait_for_run(sha=factory.push("Fill the cache", branch="everything"))
    assert first["run"]["status"] == "success", first["run"]
    detail = stack.wait_for_run(sha=factory.push("Check every page", branch="everything"))
    assert detail["run"]["status"] == "success", detail["run"]
    return detail


@pytest.fixture
def closed_gate(gate: Path) -> Generator[Path]:
    gate.unlink(missing_ok=True)
    yield gate
    gate.touch()


def job_of(detail: dict[str, Any], name: str) -> dict[str, Any]:
    return next(job for job in detail["jobs"] if job["jobName"] == name)


def step_path(detail: dict[str, Any], job: str, step: str) -> str:
    found = job_of(detail, job)
    index = next(each["stepIndex"] for each in found["steps"] if each["stepName"] == step)
    return f"/{detail['run']['runId']}/jobs/{found['jobId']}/steps/{index}"


def item(page: Page, name: str) -> Locator:
    return page.get_by_role("treeitem").filter(has_text=re.compile(rf"^{re.escape(name)}"))


def written(definition: str) -> str:
    """Where the definition that begins with this line stands, as people see it."""
    numbers = [n for n, line in enumerate(WORKFLOWS.split("\n"), start=1) if line.startswith(definition)]
    assert len(numbers) == 1, definition
    return f".kici/workflows/all.py:{numbers[0]}"


def written_above(function: str) -> str:
    """As `written`, of a function whose only decorator stands in the line before."""
    file, line = written(function).rsplit(":", 1)
    return f"{file}:{int(line) - 1}"


def places(page: Page) -> Locator:
    """Of the selected step and of its job, as far as they are known."""
    return page.get_by_test_id("metadata").get_by_test_id("source-place")


def shown_lines(page: Page) -> list[int]:
    """Numbers of the lines on screen."""
    return [
        int(each.get_attribute("data-line") or 0) for each in surface(page).locator("[data-line]").all()
    ]


# ── the tree ─────────────────────────────────────────────────────────────────────────────────────


def test_the_tree_tells_setup_hooks_caches_and_rules_apart(
    page: Page, stack: Stack, everything: dict[str, Any]
):
    """PD-122…PD-124: setup rows muted, generated jobs under their group, why something was skipped."""
    run_id = everything["run"]["runId"]
    page.goto(runs_url(stack, f"/{run_id}/jobs/{job_of(everything, 'checks')['jobId']}"))
    for name in ("Evaluate: pages", "Hooks: everything", "Prepare", "restore wheels-1"):
        expect(item(page, name).first).to_have_attribute("data-setup", "true")
    expect(item(page, "total")).not_to_have_attribute("data-setup", "true")
    group = item(page, "pages (2 jobs)")
    expect(group).to_have_attribute("aria-expanded", "true")
    for name in ("page-0", "page-1"):
        expect(item(page, name)).to_have_attribute("aria-level", "2")
    expect(item(page, "publish")).to_contain_text("rule 'releases only' said no")
    expect(item(page, "sweep")).to_contain_text("rule 'only on Sundays' said no")
    expect(item(page, "restore wheels-1").locator("[data-badge='cache']")).to_have_text("hit")
    expect(item(page, "cleanup").locator("[data-badge='hook']")).to_be_visible()
    # As they ran: the cache before the steps, the hook after them.
    names = page.get_by_role("treeitem").filter(has=page.locator("xpath=self::*[@aria-level='2']"))
    shown = [text for text in names.all_inner_texts() if not text.startswith("page-")]
    order = ["Prepare", "restore", "install", "check-links", "sweep", "cleanup"]
    assert [next(word for word in order if text.startswith(word)) for text in shown] == order

    item(page, "Evaluate: pages").click()
    expect(surface(page).get_by_text("two pages")).to_be_visible()


def test_variants_and_their_names_arrive_while_one_looks(
    page: Page, stack: Stack, factory: Repository, closed_gate: Path
):
    """PD-127, PD-143: the placeholder becomes a group, in the tree and in the graph, without a reload."""
    sha = factory.push("Build what changed", branch="growing")
    run_id = str(stack.find_run(sha=sha)["runId"])
    page.goto(runs_url(stack, f"/{run_id}?tab=graph"))
    expect(item(page, "Init: build")).to_have_attribute("data-status", "running")
    expect(item(page, "build")).to_contain_text("Waits for Init: build")
    nodes = page.get_by_test_id("graph").locator(".react-flow__node")
    expect(nodes).to_have_count(2)
    expect(nodes.filter(has_text="Init: build").locator("[data-setup]")).to_be_visible()
    closed_gate.touch()
    expect(item(page, "build (3 variants)")).to_be_visible()
    for value in ("web", "api", "text"):
        expect(item(page, f"build (value:{value})")).to_have_attribute("aria-level", "2")
    expect(nodes).to_have_count(4)
    expect(page.locator("header [data-status='success']")).to_be_visible()
    expect(nodes.filter(has_text="build (value:web)")).to_be_visible()
    item(page, "build (value:web)").click()
    expect(places(page)).to_have_text([written("@job(runs_on=LINUX, matrix=parts)")])


# ── summary and metadata ─────────────────────────────────────────────────────────────────────────


def test_the_summary_has_what_steps_wrote_and_nothing_of_it_runs(
    page: Page, stack: Stack, everything: dict[str, Any]
):
    """PD-144: Markdown without markup of its own, annotations, masked secret outputs."""
    page.goto(runs_url(stack, step_path(everything, "discover", "discover")) + "?tab=summary")
    annotations = page.get_by_test_id("annotations")
    expect(annotations).to_contain_text("1 error, 1 warning")
    expect(annotations.get_by_role("listitem").first).to_contain_text("Heading level skipped")
    expect(annotations).to_contain_text("docs/start.md:12")
    written = page.get_by_test_id("summaries").locator("article")
    expect(written).to_have_count(3)
    expect(written.nth(0)).to_contain_text(re.compile(r"checks\s*›\s*check-links"))
    expect(written.nth(1)).to_contain_text("checked index.md")
    expect(written.nth(0).get_by_role("table")).to_contain_text("start.md")
    expect(written.nth(0).get_by_role("link", name="good")).to_have_attribute(
        "rel", "noopener noreferrer nofollow"
    )
    assert written.locator("script, img, a[href^='javascript']").count() == 0
    assert page.evaluate("window.broken") is None
    secrets = page.get_by_test_id("summary").get_by_role("list", name="Secret outputs")
    expect(secrets).to_contain_text("signing-key")
    expect(secrets).to_contain_text("••••••")
    assert "not-for-browsers" not in page.content()

    written.nth(0).get_by_role("button").click()  # leads to the step
    expect(page).to_have_url(re.compile(r"/steps/1$"))
    rules = page.get_by_test_id("metadata").get_by_role("table", name="Rules of the step")
    expect(rules.get_by_role("row", name="docs changed")).to_contain_text("yes")
    of_run = page.get_by_test_id("metadata").get_by_role("table", name="Rules of the workflow")
    expect(of_run.get_by_role("row", name="always")).to_contain_text("yes")


def test_what_is_selected_says_where_it_is_written_and_what_for(
    page: Page, stack: Stack, everything: dict[str, Any]
):
    """PD-146, AU-12: of steps and jobs, also generated ones and setup rows; nothing of hooks and caches."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    checks = written("checks = job(")
    page.goto(runs_url(stack, step_path(everything, "checks", "check-links")))
    expect(places(page)).to_have_text([written("@step(rules=[docs_changed])"), checks])
    expect(places(page).get_by_role("link")).to_have_count(0)  # the repository is a folder
    places(page).first.get_by_role("button", name="Copy place").click()
    eventually(
        lambda: page.evaluate("navigator.clipboard.readText()") == written("@step(rules=[docs_changed])"),
        what="the place in the clipboard",
    )
    expect(page.get_by_test_id("job-description")).to_have_text("Links and headings of every page")
    expect(item(page, "checks").locator("[title]").first).to_have_attribute(
        "title", "checks\nLinks and headings of every page"
    )
    for name in ("Prepare", "restore wheels-1", "cleanup"):
        item(page, name).first.click()
        expect(places(page)).to_have_text([checks])

    generator = written('@dynamic_jobs("pages"')
    page.goto(runs_url(stack, step_path(everything, "__dynamic__everything__0", "evaluate")))
    expect(places(page)).to_have_text([generator, generator])
    expect(page.get_by_test_id("job-description")).to_have_count(0)
    page.goto(runs_url(stack, step_path(everything, "page-1", "check-page")))
    made = written('        job(f"page-{number}"')
    expect(places(page)).to_have_text([written_above("async def check_page("), made])
    item(page, "Hooks: everything").click()
    expect(places(page)).to_have_text([written("everything = workflow(")])

    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(runs_url(stack, step_path(everything, "checks", "check-links")) + "?tab=metadata")
    expect(places(page).first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_places_lead_to_the_repositorys_host(page: Page, stack: Stack, everything: dict[str, Any]):
    """At the commit of the run, in another tab; not for the file of an installed package."""

    def from_a_forge(route: Route) -> None:
        """The same run, of a repository that has web pages, with its first step from a package."""
        response = route.fetch()
        detail = response.json()
        detail["run"] |= {"provider": "generic", "repoUrl": "https://gitlab.example.org/acme/factory.git"}
        job_of(detail, "checks")["stepPlaces"][0]["file"] = "wheels.py"
        route.fulfill(response=response, json=detail)

    page.route("**/detail", from_a_forge)
    page.goto(runs_url(stack, step_path(everything, "checks", "check-links")))
    links = places(page).get_by_role("link")
    expect(links).to_have_count(2)
    file, line = written("@step(rules=[docs_changed])").rsplit(":", 1)
    commit = everything["run"]["sha"]
    expect(links.first).to_have_attribute(
        "href", f"https://gitlab.example.org/acme/factory/-/blob/{commit}/{file}#L{line}"
    )
    expect(links.first).to_have_attribute("rel", "noopener noreferrer")
    item(page, "install").first.click()
    expect(places(page).first).to_contain_text("wheels.py:")
    expect(links).to_have_count(1)


def test_check_mode_says_what_would_change(page: Page, stack: Stack, factory: Repository):
    """PD-119, PD-126: badges, outcomes and drift of a test run that changes nothing."""
    arguments = ["--workflow", "deploy", "--check", "--no-wait", "--input", "version=v12"]
    done = subprocess.run(
        [sys.executable, "-m", "kici.cli.main", "run", "remote", *arguments],
        cwd=factory.clone,
        env=dict(stack.environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    run_id = re.findall(r"/runs/([0-9a-f-]{36})", done.stdout)[-1]
    stack.wait_for_end(run_id)
    expect(row(page, run_id).locator("[data-mark='check']")).to_be_visible()
    expect(row(page, run_id).locator("[data-mark='test']")).to_be_visible()
    page.goto(runs_url(stack, f"/{run_id}"))
    expect(page.get_by_test_id("check-mode")).to_have_text("check mode")
    expect(page.get_by_test_id("test-run")).to_be_visible()
    for name, outcome in (("scale", "would change"), ("network", "in sync"), ("announce", "no check")):
        expect(item(page, name).locator("[data-badge='check']")).to_have_text(outcome)
    item(page, "scale").click()
    expect(page.get_by_test_id("metadata").get_by_test_id("drift")).to_have_text(
        "+ replicas: 3\n- replicas: 2\n", use_inner_text=False
    )
    expect(page.get_by_test_id("metadata")).to_contain_text("version")
    expect(page.get_by_test_id("rerun")).to_have_attribute("aria-disabled", "true")


# ── groups in logs ───────────────────────────────────────────────────────────────────────────────


def test_groups_fold_and_lines_keep_their_numbers(page: Page, stack: Stack, everything: dict[str, Any]):
    """PD-202: folded at first; opened by hand, by a search and by a link to a line."""
    url = runs_url(stack, step_path(everything, "checks", "install"))
    page.goto(url)
    resolve = surface(page).get_by_role("button", name="Resolve 30 lines")
    expect(resolve).to_have_attribute("aria-expanded", "false")
    before = surface(page).get_by_text("before", exact=True)
    expect(before).to_be_visible()
    # before, Resolve, (30 lines, end), Download, (7 lines, end), installed
    eventually(lambda: shown_lines(page) == [1, 2, 34, 43], what="the groups folded")
    resolve.click()
    expect(surface(page).get_by_text("package-30", exact=True)).to_be_attached()
    eventually(lambda: shown_lines(page)[:4] == [1, 2, 3, 4], what="the first group unfolded")
    resolve.click()
    expect(surface(page).get_by_text("package-1", exact=True)).to_have_count(0)

    page.get_by_label("Search log").fill("fetched-3")
    expect(surface(page).locator("mark[data-current]")).to_have_text("fetched-3")
    expect(surface(page).locator("[data-line='38']")).to_contain_text("fetched-3")
    page.get_by_label("Search log").press("Escape")

    surface(page).focus()
    page.keyboard.press("c")
    expect(surface(page).get_by_text("fetched-3", exact=True)).to_have_count(0)
    page.goto(f"{url}#L20")
    page.reload()
    expect(surface(page).locator("[data-line='20']")).to_have_attribute("data-selected", "true")
    expect(surface(page).locator("[data-line='20']")).to_contain_text("package-18")


def test_a_group_that_one_watches_stays_open_when_it_ends(
    page: Page, stack: Stack, factory: Repository, closed_gate: Path
):
    sha = factory.push("Talk", branch="talking")
    run_id = str(stack.find_run(sha=sha)["runId"])
    page.goto(runs_url(stack, f"/{run_id}"))
    expect(surface(page).get_by_text("warm 2", exact=True)).to_be_visible()
    warm = surface(page).get_by_role("button", name="Warm up")
    expect(warm).to_have_attribute("aria-expanded", "true")
    closed_gate.touch()
    expect(page.get_by_test_id("completion")).to_be_visible()
    expect(surface(page).get_by_text("after the group", exact=True)).to_be_visible()
    expect(surface(page).get_by_role("button", name="Quick 1 line")).to_have_attribute(
        "aria-expanded", "false"
    )
    surface(page).focus()
    page.keyboard.press("Home")
    expect(warm).to_have_attribute("aria-expanded", "true")
    page.reload()
    expect(warm).to_have_attribute("aria-expanded", "false")


def test_groups_of_a_very_long_log_are_known_before_it_is_read(
    page: Page, stack: Stack, factory: Repository
):
    """PD-130, PD-202."""
    detail = stack.wait_for_run(sha=factory.push("Flood", branch="flooding"), within_seconds=90)
    page.goto(runs_url(stack, step_path(detail, "flood", "flood")))
    first = surface(page).get_by_role("button", name="First 200,000 lines")
    expect(first).to_have_attribute("aria-expanded", "false")
    eventually(lambda: lines(page) == 3, what="two folded groups")
    eventually(lambda: shown_lines(page) == [1, 200_003, 400_005], what="the lines around the groups")
    surface(page).get_by_role("button", name="Second 200,000 lines").click()
    eventually(lambda: lines(page) == 200_003, what="the second group's lines")
    surface(page).focus()
    page.keyboard.press("End")
    expect(surface(page).locator("[data-line='400003']")).to_contain_text("two 200000")
    assert surface(page).locator("[data-row]").count() < 120


# ── starting ─────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_started_again_and_both_know_of_it(page: Page, stack: Stack, factory: Repository):
    """PD-115, PD-117: confirmed, followed to the new run, refused in words when done twice at once."""
    detail = stack.wait_for_run(sha=factory.push("Once more", branch="everything2"))
    run_id = detail["run"]["runId"]
    page.goto(runs_url(stack, f"/{run_id}"))
    page.get_by_test_id("rerun").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(detail["run"]["sha"][:7])
    dialog.get_by_role("button", name="Re-run").click()
    parent = page.get_by_test_id("parent")
    expect(parent).to_contain_text(run_id[-8:])
    new_id = re.findall(r"/runs/([0-9a-f-]{36})", page.url)[0]
    assert new_id != run_id
    assert stack.detail(new_id)["run"]["parentRunId"] == run_id
    parent.click()
    expect(page.get_by_test_id("child")).to_contain_text(new_id[-8:])
    page.get_by_test_id("rerun").click()
    answered = page.get_by_role("dialog").get_by_role("button", name="Re-run")
    with page.expect_response(re.compile("/rerun$")) as response:
        answered.click()
    if response.value.status == 429:  # the cooldown, unless all of this took longer
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("a moment ago")
    stack.wait_for_end(new_id)


def test_a_workflow_is_run_now_with_typed_inputs(page: Page, stack: Stack, factory: Repository):
    """PD-147, PD-148: the form knows its fields, the server's words stand beside them, the run has the values."""
    page.goto(f"{stack.platform_url}/orgs/{stack.org_id}/workflows")
    expect(
        page.get_by_role("row", name="nightly").get_by_text(re.compile(r"^in \d+ (hour|minute)"))
    ).to_be_visible()
    page.get_by_role("button", name="Run now: deploy").click()
    form = page.get_by_test_id("run-now")
    expect(form).to_contain_text("Tag to deploy · matches ^v[0-9]+$")
    form.get_by_label("version").fill("12")
    form.get_by_label("replicas").fill("99")
    form.get_by_role("button", name="Run now").click()
    expect(form.get_by_text("At most 10")).to_be_visible()
    form.get_by_label("replicas").fill("3")
    form.get_by_role("button", name="Run now").click()
    expect(form.get_by_text("Must match ^v[0-9]+$, got '12'")).to_be_visible()
    form.get_by_label("version").fill("v12")
    form.get_by_label("target").click()
    page.get_by_role("option", name="production").click()
    form.get_by_label("dry_run").uncheck()
    form.get_by_role("button", name="Run now").click()
    expect(page.get_by_test_id("page-run")).to_be_visible()
    expect(page.get_by_role("heading", name="deploy", level=1)).to_be_visible()
    run_id = re.findall(r"/runs/([0-9a-f-]{36})", page.url)[0]
    run = stack.wait_for_end(run_id)["run"]
    assert run["inputs"] == {"target": "production", "version": "v12", "replicas": 3, "dry_run": False}
    expect(page.get_by_test_id("metadata")).to_contain_text("production")
    expect(item(page, "scale").locator("[data-badge='check']")).to_have_text("applied")


def test_a_disabled_workflow_says_why_it_cannot_be_run(page: Page, stack: Stack, factory: Repository):
    listed = stack.api("GET", "/registrations")["registrations"]
    found = next(each for each in listed if each["workflowName"] == "nightly")
    stack.admin("POST", f"/registrations/{found['id']}/disable")
    try:
        page.goto(f"{stack.platform_url}/orgs/{stack.org_id}/workflows")
        button = page.get_by_role("button", name="Run now: nightly")
        expect(button).to_have_attribute("aria-disabled", "true")
        button.hover(force=True)
        expect(page.get_by_role("tooltip")).to_contain_text("disabled")
    finally:
        stack.admin("POST", f"/registrations/{found['id']}/enable")


def test_a_run_that_waits_says_for_what(page: Page, stack: Stack, factory: Repository, closed_gate: Path):
    """PD-102: in the list, in the header and beside the job; gone as soon as it is its turn."""
    first = str(stack.find_run(sha=factory.push("First", branch="talking1"))["runId"])
    second = str(stack.find_run(sha=factory.push("Second", branch="talking2"))["runId"])
    expect(row(page, second)).to_have_attribute("data-status", "queued")
    row(page, second).get_by_text("Queued").hover()
    expect(page.get_by_role("tooltip")).to_contain_text("Waiting for microphone (1 ahead)")
    page.goto(runs_url(stack, f"/{second}"))
    expect(page.get_by_test_id("waiting")).to_have_text("Waiting for microphone (1 ahead)")
    expect(item(page, "talk")).to_contain_text("Waiting for microphone (1 ahead)")
    closed_gate.touch()
    stack.wait_for_end(first)
    expect(page.locator("header [data-status='success']")).to_be_visible()
    expect(page.get_by_test_id("waiting")).to_have_count(0)


# ── everywhere ───────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_is_signed_in_on_a_narrow_screen(page: Page, stack: Stack):
    """PD-96: the code is shown before anything is approved."""
    asked = httpx.post(
        f"{stack.platform_url}/oauth/device_authorization", data={"client_id": "kici-cli"}, trust_env=False
    ).json()
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(f"{stack.platform_url}/device?user_code={asked['user_code']}")
    expect(page.get_by_text(asked["user_code"])).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", name="Signed in")).to_be_visible()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_nothing_serious_is_wrong_with_these_pages(
    page: Page, stack: Stack, everything: dict[str, Any], scheme: Any
):
    """PD-83, PD-85: axe in both themes; no page scrolls sideways, from 360 to 2560 px."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    paths = [
        runs_url(stack, step_path(everything, "checks", "install")),
        runs_url(stack, step_path(everything, "checks", "check-links")) + "?tab=summary",
        runs_url(stack, f"/{everything['run']['runId']}?tab=graph"),
        f"{stack.platform_url}/orgs/{stack.org_id}/workflows",
        f"{stack.platform_url}/device",
    ]
    found: list[str] = []
    for path in paths:
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(path)
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_load_state("networkidle")
        for width in (360, 2560):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.evaluate(AXE.read_text())
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            f"{path}: {violation['id']}: {[node['target'] for node in violation['nodes']][:3]}"
            for violation in result["violations"]
            if violation["impact"] in {"serious", "critical"}
        ]
    assert found == []
