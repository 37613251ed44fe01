"""Local = remote (AU-94, AU-110): the same workflows by `kici run local` and by a whole stack with real agents,
compared job by job, step by step and line by line; and what each is to come to, so that both cannot be wrong alike.
"""

import json
import signal
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import httpx
import pytest

from tests.process.conformance import expected
from tests.process.conformance.documents import Document, comparable, differences
from tests.process.conformance.sides import Runs, Sides
from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Generator[Sides]:
    with Stack.started(agents=2) as stack, Sides.of(stack, tmp_path_factory.mktemp("local")) as sides:
        yield sides


@dataclass
class Batch:
    local: Runs
    server: Runs


@pytest.fixture(scope="module")
def batch(sides: Sides) -> Batch:
    """Everything that a push to main starts."""
    local = sides.locally("push", "--concurrency", "4")
    return Batch(local, sides.pushed("main", sorted(local)))


def hold(workflow: str, local: Document, server: Document, wanted: Mapping[str, expected.Want]) -> None:
    """Both sides are alike, and `wanted` (job → status, lines of its logs) is true."""
    found = list(differences(*comparable(workflow, local, server)))
    assert not found, "\n".join(found)
    statuses = {name: job["status"] for name, job in local["jobs"].items()}
    assert statuses == {name: want if isinstance(want, str) else want[0] for name, want in wanted.items()}
    for name, want in wanted.items():
        if isinstance(want, str):
            continue
        lines = [line for step in local["jobs"][name]["steps"] for line in step["log"]]
        text = "\n".join([*lines, str(local["jobs"][name]["error"]), str(local["jobs"][name]["outputs"])])
        for part in want[1:]:
            assert part in text, name


@pytest.mark.parametrize("workflow", expected.RULES)
def test_rules(batch: Batch, workflow: str) -> None:
    """AU-34, AU-35, AU-41, AU-42, AU-110."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.RULES[workflow])


@pytest.mark.parametrize("workflow", expected.HOOKS)
def test_hooks(batch: Batch, workflow: str) -> None:
    """AU-33, AU-110, AG-53, AG-55."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.HOOKS[workflow])


@pytest.mark.parametrize("workflow", expected.NEEDS)
def test_needs(batch: Batch, workflow: str) -> None:
    """AU-24, AU-26, AU-110, OR-131."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.NEEDS[workflow])


@pytest.mark.parametrize("workflow", expected.MATRICES)
def test_matrices(batch: Batch, workflow: str) -> None:
    """AU-15, AU-21, AU-26, AU-40, AU-42, AU-110: keys of outputs stay in the order in which they were written."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.MATRICES[workflow])


@pytest.mark.parametrize("workflow", expected.GENERATORS)
def test_generators(batch: Batch, workflow: str) -> None:
    """AU-43, AU-44, AU-45, AU-110."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.GENERATORS[workflow])


@pytest.mark.parametrize("workflow", expected.OUTPUTS)
def test_outputs(batch: Batch, workflow: str) -> None:
    """AU-25, AU-26, AU-110: also those that are secret."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.OUTPUTS[workflow])


@pytest.mark.parametrize("workflow", expected.STEPS)
def test_steps(batch: Batch, workflow: str) -> None:
    """AU-13, AU-14, AU-30, AU-31, AU-32, AU-67, AU-110."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.STEPS[workflow])


@pytest.mark.parametrize("workflow", expected.ENVIRONMENT)
def test_environment(batch: Batch, workflow: str) -> None:
    """AU-41, AU-55, AU-61, AU-69, AU-110."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.ENVIRONMENT[workflow])


@pytest.mark.parametrize("workflow", expected.PREPARATION)
def test_preparation(batch: Batch, workflow: str) -> None:
    """AU-57, AU-58, AU-110."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.PREPARATION[workflow])


@pytest.mark.parametrize("workflow", expected.OTHERS)
def test_events_and_turns(batch: Batch, workflow: str) -> None:
    """AU-59, AU-86, AU-110."""
    hold(workflow, batch.local[workflow], batch.server[workflow], expected.OTHERS[workflow])


def test_every_workflow_is_expected(batch: Batch) -> None:
    """AU-110: none runs that nobody looks at."""
    themes = (
        expected.RULES, expected.HOOKS, expected.NEEDS, expected.MATRICES, expected.GENERATORS, expected.OUTPUTS,
        expected.STEPS, expected.CHECKS, expected.ENVIRONMENT, expected.PREPARATION, expected.OTHERS,
    )  # fmt: skip
    assert {name for theme in themes for name in theme} == set(batch.local)


def test_a_second_run_finds_what_the_first_kept(batch: Batch, sides: Sides) -> None:
    """AU-58, AU-110: on another branch; a cache is written once."""
    assert batch.local["caches"]["status"] == batch.server["caches"]["status"]
    local = sides.locally("push", "--branch", "again")
    server = sides.pushed("again", ["caches"])
    hold("caches", local["caches"], server["caches"], expected.SECOND_RUN)


@pytest.mark.parametrize("mode", ["apply", "check", "check-fail-on-drift"])
def test_check_modes(batch: Batch, sides: Sides, mode: str) -> None:
    """AU-48, AU-49, AU-50, AU-110, AU-126: the working tree, sent to the server."""
    if mode == "apply":
        hold("checks", batch.local["checks"], batch.server["checks"], expected.CHECKS["checks"])
        return
    options = ["--workflow", "checks", "--check", *(["--fail-on-drift"] if mode != "check" else [])]
    local = sides.locally("push", *options)["checks"]
    sent = sides.author("run", "remote", *options, "--json")
    assert sent.stdout, sent.stderr
    (run,) = json.loads(sent.stdout)["fixtures"][0]["runs"]
    server = sides.document(sides.stack.wait_for_end(run["runId"]))
    hold("checks", local, server, expected.CHECK_MODES[mode])


def test_inputs_of_a_dispatch(batch: Batch, sides: Sides) -> None:
    """AU-83, AU-110: texts become values, defaults are applied, rules see them."""
    inputs = {"target": "north", "really": "yes", "retries": "5"}
    options = [part for name, value in inputs.items() for part in ("--input", f"{name}={value}")]
    local = sides.locally("dispatch:deploy", "--workflow", "dispatched", *options)
    started = sides.stack.admin(
        "POST", "/dispatch", json={"repository": "conformance", "type": "deploy", "inputs": inputs}
    )
    server = sides.ended([run["newRunId"] for run in started["runs"]])
    hold("dispatched", local["dispatched"], server["dispatched"], expected.DISPATCHED)
    assert local["dispatched"]["inputs"] == {
        "target": "north", "mode": "full", "retries": 5, "really": True,
    }  # fmt: skip


def test_a_workflow_past_its_time(batch: Batch, sides: Sides) -> None:
    """AU-31, AU-33, AU-110: the run ends from the inside out, and its hooks come last."""
    local = sides.locally("push", "--branch", "late")["too-long"]
    server = sides.pushed("late", ["too-long"])["too-long"]
    hold("too-long", local, server, expected.stopped("too-long"))


def test_a_run_that_somebody_cancels(batch: Batch, sides: Sides) -> None:
    """AU-33, AU-68, AU-110, AU-117: Ctrl-C here, the button there."""
    sides.push("stop")
    run_id = sides.run_of("stop", "cancelled")
    command = sides.start_locally("push", "--branch", "stop")
    assert command.stderr is not None
    shown = ""
    for line in command.stderr:
        shown += line
        if "│ begun" in line:
            break
    command.send_signal(signal.SIGINT)
    local = sides.told(command, shown)["cancelled"]
    assert command.returncode == 130

    def begun() -> bool:
        job = next(job for job in sides.stack.detail(run_id)["jobs"] if job["jobName"] == "stays")
        return bool(job["steps"]) and b"begun" in sides.log(run_id, job["jobId"], 0)

    eventually(begun, what="the step began")
    sides.stack.api("POST", f"/runs/{run_id}/cancel", json={})
    server = sides.ended([run_id])["cancelled"]
    hold("cancelled", local, server, expected.stopped("cancelled"))


def test_a_webhook_of_another_system(batch: Batch, sides: Sides) -> None:
    """AU-94, AU-111, OR-55: its path behind the source's address, and what the source verified, choose who runs."""
    stack = sides.stack
    stack.admin(
        "POST", "/sources",
        json={"kind": "generic", "name": "deploys", "verificationMethod": "api_key", "secret": "hush",
              "headerName": "x-key", "eventTypeHeader": "x-kici-event"},
    )  # fmt: skip
    address = f"{stack.platform_url}/webhook/{stack.org_id}/generic/deploys"
    headers = {"x-key": "hush", "x-kici-event": "deploy.done", "x-kici-path": "/other"}

    def taken() -> bool:
        answer = httpx.post(
            f"{address}/staging/eu", json={"env": "prod"}, headers=headers, trust_env=False, timeout=30
        )
        return answer.status_code == 200

    eventually(taken, what="the Platform knows the source")
    run = stack.find_run(workflow="called")
    server = sides.ended([run["runId"]])["called"]
    local = sides.locally("generic_webhook:deploys", "--workflow", "called")["called"]
    hold("called", local, server, expected.CALLED)
    assert not stack.runs(workflow="called-elsewhere")
    assert not stack.runs(workflow="called-otherwise")
