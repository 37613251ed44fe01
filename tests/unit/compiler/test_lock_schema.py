"""The published JSON Schema is the lock file's (AU-98)."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

from kici.spec import lock
from kici.spec.triggers import Trigger
from tests.support.json_schema import Schema
from tests.support.repository import Repository
from tests.unit.compiler.test_full_lock import EVERYTHING

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "docs" / "reference" / "lock.schema.json"


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(json.loads(PUBLISHED.read_bytes()))


def test_the_published_schema_is_what_the_structs_say() -> None:
    """AU-98: `make gen` writes it, and it is committed."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import gen_lock_schema  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert gen_lock_schema.document() == PUBLISHED.read_bytes(), "run `make gen` and commit"


def test_real_lock_files_fit(schema: Schema, tmp_path: Path) -> None:
    """AU-98: one that uses every option, and every one that is committed with the examples."""
    data = Repository(tmp_path).workflow(EVERYTHING).compile().data
    assert data is not None
    assert schema.problems(json.loads(data)) == []
    committed = sorted((ROOT / "examples").rglob("kici.lock.json"))
    for path in committed:
        assert schema.problems(json.loads(path.read_bytes())) == [], path


def test_every_kind_of_trigger_fits(schema: Schema, tmp_path: Path) -> None:
    """AU-98: each `_type` in the union has its definition."""
    triggers = """
        on = [
            push(branches="main", tags="v*"), pr(), tag(), comment(), review(), review_comment(), release(),
            dispatch(types="x"), create(), delete(), status(), workflow_run(), fork(), star(), watch(),
            webhook(events="deployment"), kici_event("x"), workflow_complete(), job_complete(),
            generic_webhook(source="s", auth=HmacAuth(secret="s", signature_header="x-sig")),
            schedule(cron="0 4 * * *"), lifecycle(events="job_failed"),
        ]
        ci = workflow("ci", on=on, jobs=[job("a", runs_on="linux", steps=[build])])
        """
    data = Repository(tmp_path).workflow(triggers).compile().data
    assert data is not None
    document = json.loads(data)
    assert schema.problems(document) == []
    assert {trigger["_type"] for trigger in document["workflows"][0]["triggers"]} == {
        kind.__struct_config__.tag for kind in Trigger.__args__
    }


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"schemaVersion": "1"}, "$.schemaVersion: str is no integer"),
        ({"sources": [{"path": "a"}]}, "$.sources[0]: 'sha256' is missing"),
        ({"workflows": None}, "$.workflows: NoneType is no array"),
    ],
)
def test_wrong_documents_do_not_fit(
    schema: Schema, tmp_path: Path, wrong: dict[str, object], problem: str
) -> None:
    """AU-98: schema and reader refuse the same documents."""
    data = Repository(tmp_path).workflow('a = job("a", runs_on="linux", steps=[build])').compile().data
    assert data is not None
    document = {**json.loads(data), **wrong}
    assert schema.problems(document) == [problem]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, lock.LockFile)
