"""What the host makes of a runner that lies, stalls or vanishes. The test plays the runner."""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Struct

from kici.protocol.runner_v1 import (
    LENGTH,
    MAX_MESSAGE,
    AddMask,
    Annotation,
    InitResult,
    JobEnded,
    Ready,
    Reply,
    Request,
    RuleResult,
    StepEnded,
    StepStarted,
    decode_to_runner,
    encode,
)
from kici.runner import linux
from kici.runner.desk import NoServices, RequestDesk, RunnerServices, UnknownMethodError
from kici.runner.masking import Masker
from kici.runner.session import Session
from kici.runner.wire import Inbox
from kici.sdk.errors import LimitExceededError
from kici.spec.ids import CACHE_STEPS, INIT_STEPS
from kici.spec.states import JobStatus, StepStatus
from tests.process.runner.builders import Recorder, Repo


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class Runner:
    """The other end of a session."""

    def __init__(self, repo: Repo, services: RunnerServices | None = None) -> None:
        host, self.sock = socket.socketpair()
        outside, self.outside = linux.output_pipe()
        os.set_blocking(outside, False)
        self.seen = Recorder()
        self.masker = Masker()
        self.desk = RequestDesk(services or NoServices(), "j", self.masker)
        self.session = Session(repo.execute("j"), self.seen, self.masker, host, outside, self.desk)
        self.pipes: dict[int, int] = {}

    def send(self, message: Struct, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.sock, [encode(message)], fds)

    def ready(self, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "protocol_version": 1,
            "sdk_version": "1",
            "python_version": "3",
            "pid": 1,
        }
        self.send(Ready(**{**fields, **changes}))

    def start(self, index: int, *, attempt: int = 1, fd: int | None = None) -> None:
        started = StepStarted(
            step_index=index, step_name=f"s{index}", step_type="step", timestamp_ms=1, attempt=attempt
        )
        if attempt > 1:
            self.send(started)
            return
        if fd is None:
            fd, self.pipes[index] = linux.output_pipe()
        self.send(started, [fd])
        os.close(fd)

    def write(self, index: int, data: bytes) -> None:
        os.write(self.pipes[index], data)

    def end(self, index: int, *, close: bool = True, **changes: Any) -> None:
        if close and index in self.pipes:
            os.close(self.pipes.pop(index))
        fields: dict[str, Any] = {"status": StepStatus.SUCCESS, "timestamp_ms": 2, "duration_ms": 1}
        self.send(
            StepEnded(step_index=index, step_name=f"s{index}", step_type="step", **{**fields, **changes})
        )

    def leave(self, status: int = 0) -> None:
        """Exit: everything of the process closes."""
        for fd in (self.outside, *self.pipes.values()):
            os.close(fd)
        self.pipes.clear()
        self.sock.close()
        self.session.exited(status)

    async def replies(self, count: int) -> dict[int, Reply]:
        """By number, once there are so many; `execute` went before them."""
        inbox, found = Inbox(), dict[int, Reply]()
        self.sock.setblocking(False)
        async with asyncio.timeout(10):
            while len(found) < count:
                try:
                    inbox.receive(self.sock)
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                while (raw := inbox.next_message()) is not None:
                    message = decode_to_runner(raw)
                    if isinstance(message, Reply):
                        found[message.request_id] = message
        self.sock.setblocking(True)
        return found

    async def result(self) -> Any:
        async with asyncio.timeout(10):
            return await self.session.result


@pytest.fixture
async def runner(repo: Repo) -> Runner:
    return Runner(repo)


async def test_rows_in_order_and_masks_before_output(runner: Runner) -> None:
    """AG-65, AG-84."""
    runner.ready()
    runner.start(0)
    runner.send(AddMask(value="secret"))
    runner.write(0, b"a secret")
    runner.end(0, output={"v": "secret"}, has_output=True)
    runner.end(1, status=StepStatus.SKIPPED)
    runner.send(JobEnded(status=JobStatus.SUCCESS))
    os.write(runner.outside, b"outside\n")
    runner.leave()
    result = await runner.result()
    assert (result.status, result.outputs) == (JobStatus.SUCCESS, {"s0": {"v": "***"}})
    assert runner.seen.text(0) == "a ***"
    assert runner.seen.text(-1) == "outside\n"
    assert runner.seen.events == ["start s0", "end s0 success", "end s1 skipped"]


async def test_an_output_left_open_turns_into_output_outside_of_steps(runner: Runner) -> None:
    runner.ready()
    runner.start(0)
    runner.write(0, b"in time\n")
    runner.end(0, close=False)
    runner.start(1)
    async with asyncio.timeout(5):
        while 0 not in runner.seen.ends:
            await asyncio.sleep(0.01)
    runner.write(0, b"late\n")
    await runner.seen.printed("late")
    assert (runner.seen.text(0), runner.seen.text(-1)) == ("in time\n", "late\n")
    runner.end(1)
    runner.send(JobEnded(status=JobStatus.SUCCESS))
    runner.leave()
    assert (await runner.result()).status == JobStatus.SUCCESS


async def test_a_runner_that_dies_ends_its_rows_and_gives_its_last_words(runner: Runner) -> None:
    """AG-46."""
    runner.ready()
    runner.start(0)
    runner.start(1)
    runner.write(1, b"".join(b"line %d\n" % number for number in range(30)))
    runner.leave(-11)
    result = await runner.result()
    assert result.status == JobStatus.FAILED
    lines = result.error_message.splitlines()
    assert lines[0] == "the runner was killed by signal 11 (SIGSEGV)"
    assert lines[1:] == [f"  line {number}" for number in range(10, 30)]
    assert runner.seen.statuses() == {"s0": "failed", "s1": "failed"}


async def test_a_runner_that_dies_after_an_abort_was_cancelled(runner: Runner) -> None:
    runner.ready()
    runner.start(0)
    runner.session.abort("by ada", False)
    runner.leave(-9)
    result = await runner.result()
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "by ada")
    assert runner.seen.statuses() == {"s0": "cancelled"}


class Vault:
    """A host that knows one secret."""

    async def request(self, job_id: str, method: str, params: dict[str, Any]) -> Any:
        match method:
            case "secrets.get":
                return {"value": "hunter2", "backend": "test", "scope": job_id}
            case "secrets.output":
                raise LimitExceededError(f"no more than 20, not {params['value']}")
            case "inventory.get":
                raise ZeroDivisionError
            case "approval.request":
                return await asyncio.get_running_loop().create_future()
            case _:
                raise UnknownMethodError(method)


async def test_requests_get_an_answer(repo: Repo) -> None:
    """AG-37: secrets in both directions are masked, a failing host says so, what is unanswered is dropped."""
    runner = Runner(repo, Vault())
    runner.ready()
    runner.start(0)
    asked = {
        7: Request(request_id=7, method="emit", params={}),
        8: Request(request_id=8, method="secrets.get", params={"key": "k"}),
        9: Request(request_id=9, method="secrets.output", params={"key": "k", "value": "minted-token"}),
        10: Request(request_id=10, method="inventory.get", params={}),
        11: Request(request_id=11, method="approval.request", params={}),
    }
    async with runner.desk:
        for request in asked.values():
            runner.send(request)
        replies = await runner.replies(4)
        runner.write(0, b"hunter2 and minted-token")
        runner.end(0)
        runner.send(JobEnded(status=JobStatus.SUCCESS))
        runner.leave()
        await runner.result()
    assert replies[7].error_code == "unknown_method"
    assert replies[8].result["value"] == "hunter2"
    assert (replies[9].error_code, replies[9].error) == ("limit_exceeded", "no more than 20, not ***")
    assert replies[10].error_code == "internal_error"
    assert runner.seen.text(0) == "*** and ***"


async def test_a_runner_may_ask_for_so_much_at_once(repo: Repo) -> None:
    runner = Runner(repo, Vault())
    runner.ready()
    async with runner.desk:
        for number in range(65):
            runner.send(Request(request_id=number, method="approval.request", params={}))
        assert (await runner.replies(1))[64].error_code == "too_many_requests"
        runner.send(JobEnded(status=JobStatus.SUCCESS))
        runner.leave()
        assert (await runner.result()).status == JobStatus.SUCCESS


async def test_what_a_runner_reports_is_masked_and_cut(runner: Runner) -> None:
    """AG-65, AU-50: rules, drift, summary, annotations and the end of the job."""
    runner.ready()
    runner.send(AddMask(value="secret"))
    rule = RuleResult(label="a secret", passed=False, duration_ms=1, error="secret!")
    runner.end(
        INIT_STEPS,
        error_message="secret " + "x" * 100_000,
        drift_summary="secret " + "é" * 40_000,
        summary="secret",
        rules=[rule],
        annotations=[Annotation(level="error", message="secret", file="a.py")] * 200,
        secrets_accessed=["KEY"],
    )
    runner.end(CACHE_STEPS)
    init = InitResult(env={"a": "secret"})
    runner.send(
        JobEnded(status=JobStatus.FAILED, rules=[rule], init=init, drifted=True, failure_category="x")
    )
    runner.leave()
    result = await runner.result()
    end = runner.seen.ends[INIT_STEPS]
    assert end.error_message == "*** " + "x" * 4092 + "… (95,908 characters left out)"
    assert end.drift_summary is not None
    assert end.drift_summary.startswith("*** éé")
    assert len(end.drift_summary.encode()) <= 64 << 10
    assert (end.summary, len(end.annotations), end.annotations[0].message) == ("***", 100, "***")
    assert (end.rules[0].label, end.rules[0].error) == ("a ***", "***!")
    assert end.secrets_accessed == ["KEY"]
    assert (result.init.env, result.rules[0].error) == ({"a": "***"}, "***!")
    assert (result.drifted, result.failure_category) == (True, "x")


async def test_another_protocol_version_names_both_sides(runner: Runner) -> None:
    """AG-37."""
    runner.ready(protocol_version=99, sdk_version="9.9")
    runner.leave()
    result = await runner.result()
    assert result.error_message == (
        "kici 9.9 of the workflow's environment speaks runner protocol 99, this host 1: update the older one"
    )


def unready(runner: Runner) -> None:
    runner.start(0)


def restarted(runner: Runner) -> None:
    runner.ready()
    runner.start(0)
    runner.end(0)
    runner.start(0)


def out_of_range(runner: Runner) -> None:
    runner.ready()
    runner.start(1_500_000)


def below_zero(runner: Runner) -> None:
    runner.ready()
    runner.end(-1)


def second_attempt_first(runner: Runner) -> None:
    runner.ready()
    runner.start(0)
    runner.start(0, attempt=3)


def not_a_pipe(runner: Runner) -> None:
    runner.ready()
    runner.start(0, fd=os.open("/dev/zero", os.O_RDONLY))


def without_descriptor(runner: Runner) -> None:
    runner.ready()
    runner.send(StepStarted(step_index=0, step_name="s", step_type="step", timestamp_ms=1))


def many_descriptors(runner: Runner) -> None:
    runner.ready()
    fds = [os.dup(0) for _ in range(15)]
    for _ in range(6):
        runner.send(AddMask(value="xyz"), fds)
    for fd in fds:
        os.close(fd)


def huge(runner: Runner) -> None:
    runner.ready()
    runner.sock.send(LENGTH.pack(MAX_MESSAGE + 1))


def garbage(runner: Runner) -> None:
    runner.ready()
    runner.sock.send(LENGTH.pack(3) + b"\xff\xff\xff")


def nested_output(runner: Runner) -> None:
    runner.ready()
    runner.end(0, has_output=True, output=nested(300))


def nested_result(runner: Runner) -> None:
    runner.ready()
    runner.send(
        JobEnded(status=JobStatus.SUCCESS, init=InitResult(env={"a": nested(300)}))  # pyright: ignore[reportArgumentType]
    )


def bottomless(runner: Runner) -> None:
    runner.ready()
    body = (
        encode(Request(request_id=1, method="m", params={"a": None}))[LENGTH.size : -1] + b"\x91" * 50_000
    )
    runner.sock.send(LENGTH.pack(len(body)) + body)


def pending_status(runner: Runner) -> None:
    runner.ready()
    runner.end(0, status=StepStatus.RUNNING)


def ended_while_running(runner: Runner) -> None:
    runner.ready()
    runner.start(0)
    runner.send(JobEnded(status=JobStatus.SUCCESS))


@pytest.mark.parametrize(
    "lie",
    [
        unready, restarted, out_of_range, below_zero, second_attempt_first, not_a_pipe, without_descriptor,
        many_descriptors, huge, garbage, pending_status, ended_while_running, nested_output, nested_result,
        bottomless,
    ],
)  # fmt: skip
async def test_a_broken_rule_fails_the_job(runner: Runner, lie: Any) -> None:
    """AG-37."""
    lie(runner)
    async with asyncio.timeout(5):
        while runner.session._broken is None:
            await asyncio.sleep(0.005)
    runner.leave(-9)
    result = await runner.result()
    assert result.status == JobStatus.FAILED
    assert result.error_message.startswith("the runner broke its protocol: ")
    assert set(runner.seen.ends) == {start.step_index for start in runner.seen.starts} | set(
        runner.seen.ends
    )


async def test_a_request_nested_too_deeply_is_refused_and_nothing_more(runner: Runner) -> None:
    """AG-37, AU-86: an author's own mistake, said to the author; the host hands nothing of it on."""
    runner.ready()
    runner.send(Request(request_id=7, method="event.emit", params={"payload": nested(300)}))
    replies = await runner.replies(1)
    assert (replies[7].error_code, replies[7].result) == ("limit_exceeded", None)
    assert "nested deeper than 200 levels" in (replies[7].error or "")
    runner.leave()
    await runner.result()


async def test_nothing_is_read_while_paused(runner: Runner) -> None:
    """AG-83."""
    runner.ready()
    runner.start(0)
    runner.write(0, b"one")
    await runner.seen.printed("one")
    runner.session.pause()
    runner.write(0, b"two")
    runner.end(0)
    runner.send(JobEnded(status=JobStatus.SUCCESS))
    runner.leave()
    await asyncio.sleep(0.05)  # time in which nothing must happen
    assert runner.seen.text(0) == "one"
    assert not runner.session.result.done()
    runner.session.resume()
    assert (await runner.result()).status == JobStatus.SUCCESS
    assert runner.seen.text(0) == "onetwo"
