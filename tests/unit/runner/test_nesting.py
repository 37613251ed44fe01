"""Values that are nested so deeply that the next process could not read or send them (AU-25, AG-37, OR-61)."""

from typing import Any

import pytest

from kici.orchestrator.inbox.acceptance import parse_body
from kici.orchestrator.lockfiles.document import LockCorrupt, parse_lock
from kici.runner.values import encode_output
from kici.sdk.errors import OutputError
from kici.spec.errors import InvalidInput
from kici.spec.nesting import MAX_NESTING, too_deep


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [1, {"b": value}]}])
def test_depth_is_counted_without_recursion(wrap: Any) -> None:
    """AG-37: lists and mappings count alike; a hundred thousand levels are no trouble."""
    own = 0 if isinstance(wrap([]), list) else 3
    assert not too_deep(wrap(nested(MAX_NESTING - own)))
    assert too_deep(wrap(nested(MAX_NESTING - own + 1)))
    assert too_deep(wrap(nested(100_000)))
    assert not too_deep("text")


@pytest.mark.parametrize("levels", [MAX_NESTING + 1, 900, 5_000])
def test_an_output_nested_too_deeply_fails_its_step(levels: int) -> None:
    """AU-25: at the producer, by the step's name; such a value would break whoever passes it on."""
    assert encode_output(nested(MAX_NESTING), None, step="build")[0] == nested(MAX_NESTING)
    for annotation in (None, Any):
        with pytest.raises(OutputError, match=r"the output of step 'build' (is nested|cannot be written)"):
            encode_output(nested(levels), annotation, step="build")


@pytest.mark.parametrize("levels", [MAX_NESTING + 1, 900, 100_000])
def test_documents_nested_too_deeply_stay_outside(levels: int) -> None:
    """OR-61: neither a delivery nor a lock file can plant what no frame to an agent could carry."""
    deep = "[" * levels + "]" * levels
    with pytest.raises(InvalidInput, match=f"nested deeper than {MAX_NESTING} levels"):
        parse_body(f'{{"a": {deep}}}'.encode())
    lock = (
        '{"schemaVersion": 1, "source": ".kici/workflows", "contentHash": "x", "sources": [], "compiler":'
        ' {"sdkVersion": "0", "sdkBundleHash": "x", "requiresPython": ""}, "workflows": [{"name": "w", "contentHash": "x",'
        ' "source": {"file": "f", "export": "#w"}, "compileSchemaVersion": 1, "triggers": [{"_type": "generic_webhook",'
        f' "source": "s", "match": {{"$.a": {deep}}}}}], "jobs": []}}]}}'
    )
    with pytest.raises(LockCorrupt, match=r"nested deeper|recursion"):
        parse_lock(lock.encode())
