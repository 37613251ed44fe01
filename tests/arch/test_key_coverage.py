"""Every option and every lock key has a reader, and a test that shows it (AU-94). `key_coverage.toml` is the table."""

import ast
import inspect
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from kici.engine.capabilities import missing
from kici.sdk.jobs import JobOptions
from kici.sdk.steps import StepOptions, step
from kici.sdk.workflows import workflow
from kici.spec import lock, triggers

ROOT = Path(__file__).resolve().parents[2]
TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("key_coverage.toml").read_text("utf-8"))
KEYS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (lock.LockWorkflow, lock.LockJob, lock.LockStep)
}
TRIGGERS: Mapping[str, type[Any]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(triggers.Trigger)
}


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def refused_by_the_server() -> set[str]:
    """The names under which `kici.engine.capabilities` refuses options."""
    source = lock.SourceLocation(file="x")
    approval = lock.Approval()
    everything = lock.LockWorkflow(
        name="w",
        source=source,
        content_hash="",
        compile_schema_version=1,
        triggers=[triggers.PushTrigger(repos=[triggers.Pattern(type="glob", pattern="x")])],
        registries=[lock.Registry(url="https://x", token_secret="a:b")],
        install_env=["a:b"],
        approval=approval,
        jobs=[
            lock.LockJob(
                name="j",
                source=source,
                environments=[lock.DynamicValue(value="staging")],
                container=lock.Container(image="x"),
                runs_on_all=lock.HostSelection(),
                approval=approval,
                steps=[
                    lock.LockStep(name="s", source_location=source, approval=approval, restarts_host=True)
                ],
            )
        ],
    )
    return {option.partition(" ")[0] for option in missing(everything)}


def wrong(entry: object) -> Iterator[str]:
    """What an entry of the table lacks."""
    if isinstance(entry, str):
        entry = {"both": entry}
    if not isinstance(entry, dict):
        yield "is no entry"
        return
    for side in ("both", "local", "agent"):
        proof = entry.get(side)
        if proof is None:
            continue
        alias, _, name = str(proof).partition("::")
        path = TABLE["files"].get(alias)
        if path is None or not (ROOT / path).is_file():
            yield f"{side}: no file {alias!r}"
        elif name not in functions_of(path):
            yield f"{side}: {path} has no {name}"
    reason = entry.get("later")
    if reason is not None and reason not in TABLE["reasons"] and reason not in refused_by_the_server():
        yield f"later: {reason!r} is neither refused by the server nor one of the reasons; show the key by a test"
    sides = {"local", "agent"} if "both" in entry else entry.keys() & {"local", "agent"}
    if reason is None and sides != {"local", "agent"}:
        yield "has no proof of " + ", ".join({"local", "agent"} - sides)
    if unknown := entry.keys() - {"both", "local", "agent", "later"}:
        yield f"has unknown parts {sorted(unknown)}"


@pytest.mark.parametrize("struct", KEYS)
def test_every_lock_key_has_its_proofs(struct: str) -> None:
    """AU-94: a new key of the lock file needs a row in key_coverage.toml, and a row needs tests that exist."""
    rows: dict[str, Any] = TABLE[struct]
    assert set(rows) == set(KEYS[struct].__struct_fields__)
    assert {key: list(wrong(entry)) for key, entry in rows.items() if list(wrong(entry))} == {}


@pytest.mark.parametrize("kind", TRIGGERS)
def test_every_filter_of_a_trigger_has_its_proofs(kind: str) -> None:
    """AU-94, AU-75: filters of triggers, on the command line and on the server."""
    rows: dict[str, Any] = TABLE["triggers"]
    found: dict[str, list[str]] = {}
    for field in TRIGGERS[kind].__struct_fields__:
        entry = rows.get(f"{kind}.{field}") or rows.get(field) or rows["default"]
        found[field] = list(wrong(entry))
    assert {field: problems for field, problems in found.items() if problems} == {}


def test_no_row_is_about_a_filter_that_is_gone() -> None:
    """AU-94: the table stays as small as the language."""
    known = {f"{kind}.{field}" for kind, struct in TRIGGERS.items() for field in struct.__struct_fields__}
    assert set(TABLE["triggers"]) - {"default", "description"} <= known
    used = {
        str(entry).partition("::")[0]
        for table in (*(TABLE[name] for name in KEYS), TABLE["triggers"])
        for row in table.values()
        for side, entry in (row.items() if isinstance(row, dict) else [("both", row)])
        if side != "later"
    }
    assert used == set(TABLE["files"])
    reasons = {
        row.get("later")
        for table in (*(TABLE[name] for name in KEYS), TABLE["triggers"])
        for row in table.values()
        if isinstance(row, dict)
    }
    assert set(TABLE["reasons"]) <= reasons, "a reason that nobody gives any more can go"


@pytest.mark.parametrize(
    ("of", "options"),
    [
        ("job", set(JobOptions.__annotations__)),
        ("step", set(StepOptions.__annotations__) | {"check", "summarize", "when_in_sync"}),
        ("workflow", set(inspect.signature(workflow).parameters) - {"name"}),
    ],
)
def test_every_option_is_a_key(of: str, options: set[str]) -> None:
    """AU-94: what an author may write is in the lock file, so that its reader is found above."""
    rows: dict[str, list[str]] = TABLE["options"][of]
    assert set(rows) == options
    for keys in rows.values():
        assert keys
        for key in keys:
            struct, _, field = key.partition(".")
            assert field in KEYS[struct].__struct_fields__, key


def test_the_step_decorator_has_no_option_beside_these() -> None:
    """AU-94: `check`, `summarize` and `when_in_sync` are the ones that StepOptions does not list."""
    parameters = inspect.signature(step).parameters.values()
    extra = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    assert extra <= {"check", "summarize", "when_in_sync"}
