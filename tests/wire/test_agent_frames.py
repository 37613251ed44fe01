"""Golden bytes of every frame between agent and orchestrator: what old and new processes must agree on.

A change here is a change of the wire: readers of the last release must still understand the new bytes.
"""

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from kici.protocol import agent_v1 as wire
from kici.protocol.blocks import BlockHeader, encode_block
from kici.protocol.frames import pack_log_block, unpack_log_block
from kici.protocol.runner_v1 import Annotation, InitResult, RuleResult, RunOutcome
from kici.spec.events import Event
from kici.spec.lock import LabelMatcher, LockJob, LockStep, Need, SourceLocation
from kici.spec.states import JobStatus, StepStatus

GOLDEN = Path(__file__).parent / "golden"

_RUN, _JOB = "0190a0a0-0000-7000-8000-000000000001", "0190a0a0-0000-7000-8000-000000000002"
_KEYS: dict[str, Any] = {"run_id": _RUN, "job_id": _JOB, "attempt": 2}

FROM_AGENT = [
    wire.AuthRequest(token="kat_00", protocol_version=1),
    wire.AgentRegister(
        agent_id="agent-1",
        session_id="s-1",
        labels=["kici:os:linux"],
        in_flight=[wire.InFlightJob(job_id=_JOB, run_id=_RUN, attempt=2)],
        first_seq=4,
        last_seq=9,
        platform="linux",
        arch="x64",
        version="0.1.0",
        hostname="host",
        python_version="3.11.7",
        os_release="6.1",
        cpu_count=2,
        total_memory_mb=4096,
        running_as_user="kici",
        running_as_uid=1000,
        properties={"rack": "b", "cores": 2, "ssd": True},
    ),
    wire.ConfigAck(agent_id="agent-1"),
    wire.Heartbeat(timestamp=1_700_000_000_000),
    wire.JobAck(seq=1, timestamp=1_700_000_000_000, **_KEYS),
    wire.JobReject(seq=2, reason="busy", timestamp=1_700_000_000_000, **_KEYS),
    wire.JobStatusUpdate(
        seq=3,
        state=JobStatus.FAILED,
        timestamp=1_700_000_000_000,
        error_message="exit code 2",
        timeout_reason="step_timeout",
        init_failure_category="lock_resolution",
        outputs={"build": {"version": "1.4.0", "n": 1}},
        rules=[RuleResult(label="only on main", passed=True, duration_ms=1)],
        init=InitResult(env={"A": "b"}, matrix={"python": ["3.12"]}, concurrency_group="deploy"),
        generated=[
            LockJob(
                name="scan",
                source=SourceLocation(file=".kici/workflows/ci.py", line=9),
                group="scans",
                generated=True,
            )
        ],
        drifted=True,
        secret_outputs={"TOKEN": "c2VhbGVk"},
        **_KEYS,
    ),
    wire.StepStatusUpdate(
        seq=4,
        step_index=0,
        step_name="build",
        state=StepStatus.SUCCESS,
        timestamp=1_700_000_000_000,
        exit_code=0,
        duration_ms=12,
        log_lines=3,
        log_bytes=90,
        secrets_accessed=["TOKEN"],
        concurrency_kind="parallel-child",
        group_id="g",
        check_outcome="would_change",
        drift_summary="1 file differs",
        rules=[RuleResult(label="nightly", passed=False, duration_ms=2, error="no clock")],
        summary="# Built",
        annotations=[Annotation(level="warning", message="unused", file="a.py", line=3)],
        **_KEYS,
    ),
    wire.AgentRequest(
        request_id="q-1", job_id=_JOB, attempt=2, method="event.emit", params={"name": "built"}
    ),
    wire.JobHeartbeat(timestamp=1_700_000_000_000, **_KEYS),
    wire.JobContext(seq=5, context={"python": "3.11"}, **_KEYS),
    wire.RunEvent(
        seq=6,
        event_type="agent.clone.end",
        timestamp_ms=1_700_000_000_000,
        step_index=-1,
        duration_ms=7,
        metadata={"cached": True},
        **_KEYS,
    ),
    wire.AgentMetrics(
        agent_id="agent-1", timestamp=1_700_000_000_000, exposition="kici_agent_jobs_active 1\n"
    ),
    wire.ErrorFrame(code="INVALID_MESSAGE", message="unknown type"),
]

TO_AGENT = [
    wire.AuthSuccess(connection_id="c-1"),
    wire.AuthFailure(reason="revoked"),
    wire.RegisterAck(agent_id="agent-1", labels=["gpu", "kici:os:linux"], acked_seq=3),
    wire.JobDispatch(
        job_name="build (3.12)",
        base_job_name="build",
        workflow_name="ci",
        workflow_file=".kici/workflows/ci.py",
        workflow_export="ci",
        content_hash="ab",
        compile_schema_version=1,
        sdk_version="0.1.0",
        resolved_hash_files=["uv.lock"],
        job=LockJob(
            name="build",
            source=SourceLocation(file=".kici/workflows/ci.py", line=3, column=1),
            runs_on=[LabelMatcher(kind="exact", value="gpu")],
            needs=[Need(name="lint", run_on=["success"])],
            steps=[
                LockStep(name="make", source_location=SourceLocation(file=".kici/workflows/ci.py", line=4))
            ],
        ),
        matrix={"python": "3.12", "fast": True},
        checkout=wire.Checkout(
            repo_url="file:///srv/shop.git", sha="0123", ref="refs/heads/main", token="t"
        ),
        event=Event(type="push", target_branch="main", payload={"n": 1}),
        env={"KICI_RUN_ID": _RUN},
        upstream_outputs={"lint": {"check": {"ok": True}}},
        upstream_statuses={"lint": JobStatus.SUCCESS},
        org_id="org_1",
        repo_identifier="acme/shop",
        request_id="r-1",
        timestamp=1_700_000_000_000,
        default_step_timeout_ms=1_800_000,
        max_log_size_bytes=1_073_741_824,
        purpose="hooks",
        generator_index=1,
        rules_from=1,
        run_outcome=RunOutcome(
            status="failed", failed_job="build", job_statuses={"lint": JobStatus.SUCCESS}
        ),
        inputs={"level": 3},
        environments=["staging"],
        check_mode="check",
        is_test_run=True,
        fanout_index=1,
        fanout_total=3,
        upstream_groups={"lint": ["lint (a)", "lint (b)"]},
        secrets={"TOKEN": "t"},
        run_public_key="cHVibGlj",
        overlay=wire.Overlay(path="/blobs/x", key="a2V5", size_bytes=12, base="c" * 40),
        **_KEYS,
    ),
    wire.JobCancel(reason="cancelled by Ann", force=True, **_KEYS),
    wire.AgentResponse(request_id="q-1", job_id=_JOB, result={"deliveryId": "d-1"}),
    wire.Heartbeat(timestamp=1_700_000_000_000),
    wire.Ack(up_to=9),
    wire.ErrorFrame(code="INVALID_MESSAGE", message="unknown type"),
]


def _lines(name: str) -> list[bytes]:
    return (GOLDEN / name).read_bytes().splitlines()


@pytest.mark.parametrize(
    ("samples", "union", "name"),
    [
        (FROM_AGENT, wire.FromAgent, "from_agent_v1.jsonl"),
        (TO_AGENT, wire.ToAgent, "to_agent_v1.jsonl"),
    ],
)
def test_every_frame_has_its_golden_bytes(samples: list[msgspec.Struct], union: object, name: str) -> None:
    assert {type(sample) for sample in samples} == set(get_args(union))
    assert [wire.encode(sample) for sample in samples] == _lines(name)


def test_golden_bytes_decode_to_what_they_were_made_of() -> None:
    assert [wire.decode_from_agent(line) for line in _lines("from_agent_v1.jsonl")] == FROM_AGENT
    assert [wire.decode_to_agent(line) for line in _lines("to_agent_v1.jsonl")] == TO_AGENT


def test_unknown_fields_pass_and_unknown_types_do_not() -> None:
    """AG-8."""
    assert wire.decode_to_agent('{"type":"ack","upTo":3,"later":true}') == wire.Ack(up_to=3)
    with pytest.raises(msgspec.ValidationError):
        wire.decode_to_agent('{"type":"later"}')


def test_a_log_block_frame_has_its_golden_bytes() -> None:
    header = BlockHeader(
        job_id=_JOB,
        attempt=2,
        step_index=0,
        seq=7,
        first_line=40,
        line_count=1,
        first_byte=900,
        raw_len=6,
        first_ts_ms=1_700_000_000_000,
        last_ts_ms=1_700_000_000_001,
        flags=8,
    )
    frame = pack_log_block(11, encode_block(header, b"hello\n"))
    assert frame.hex() == (GOLDEN / "log_block_v1.hex").read_text().strip()
    seq, record = unpack_log_block(frame)
    assert (seq, bytes(record)) == (11, encode_block(header, b"hello\n"))
