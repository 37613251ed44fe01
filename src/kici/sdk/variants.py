"""The matrix of a job as authors write it: dimensions, `include`, `exclude`, or a function (AU-40)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from kici.sdk.context import GenerateContext
from kici.sdk.options import Options
from kici.sdk.values import Maybe, Scalar, StaticMatrix
from kici.spec.matrix import wrong_dimension, wrong_value

Matrix: TypeAlias = StaticMatrix | Callable[[GenerateContext], Maybe[StaticMatrix]]
BARE_MATRIX_KEY = "value"


def read_matrix(
    given: Options,
) -> tuple[Mapping[str, tuple[Scalar, ...]] | None, Callable[..., Any] | None]:
    """The dimensions, or the function that will give them."""
    value = given.given.get("matrix")
    if callable(value):
        return None, cast("Callable[..., Any]", value)
    return _matrix(given), None


def _matrix(given: Options) -> Mapping[str, tuple[Scalar, ...]] | None:
    value = given.given.get("matrix")
    if value is None:
        return None
    table: dict[object, object]
    if isinstance(value, Mapping):
        table = dict(cast("Mapping[object, object]", value))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        table = {BARE_MATRIX_KEY: value}
    else:
        given.report("E105", f"`matrix` is a list or a mapping of lists, not {type(value).__name__}")
        return None
    if not table:
        given.report("E105", "`matrix` has no dimension", "remove it, or name at least one")
        return None
    clean: dict[str, tuple[Scalar, ...]] = {}
    for key, values in table.items():
        if (wrong := wrong_dimension(key)) is not None:
            given.report("E105", f"matrix dimension {key!r} {wrong}", "rename it")
            continue
        if not isinstance(values, Sequence) or isinstance(values, str):
            given.report("E105", f"matrix dimension {key!r} is a list, not {type(values).__name__}")
            continue
        entries = cast("Sequence[object]", values)
        if not entries:
            given.report("E105", f"matrix dimension {key!r} is empty", "give it a value, or remove it")
        for entry in entries:
            if not _is_scalar(entry):
                given.report(
                    "E105", f"matrix dimension {key!r} holds {entry!r}", "text, numbers and booleans only"
                )
            elif (wrong := wrong_value(cast("Scalar", entry))) is not None:
                given.report(
                    "E105",
                    f"matrix dimension {key!r}: the value {entry!r:.60} {wrong}",
                    "it names a job: choose a short text, and look up the rest in the step",
                )
        clean[str(key)] = tuple(
            cast("Scalar", entry)
            for entry in entries
            if _is_scalar(entry) and wrong_value(cast("Scalar", entry)) is None
        )
    return clean or None


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def read_selections(
    given: Options, name: str, matrix: Mapping[str, object] | None, *, dynamic: bool
) -> tuple[Mapping[str, Scalar], ...]:
    kept: list[Mapping[str, Scalar]] = []
    for entry in given.sequence(name, given.given.get(name, ())):
        if not isinstance(entry, Mapping):
            given.wrong_type(name, "a list of mappings", entry)
            continue
        selection = dict(cast("Mapping[str, Scalar]", entry))
        usable = True
        for key, value in selection.items():
            if not dynamic and key not in (matrix or {}):
                dimensions = ", ".join(matrix) if matrix else "the job has no matrix"
                given.report(
                    "E113", f"`{name}` key {key!r} is not a dimension", f"dimensions: {dimensions}"
                )
            elif not _is_scalar(value):
                given.report("E105", f"`{name}` holds {value!r}", "text, numbers and booleans only")
            elif name == "include" and (wrong := wrong_value(value)) is not None:
                usable = False
                given.report("E105", f"`{name}`: the value {value!r:.60} {wrong}", "it names a job")
        if not selection:
            given.report("E113", f"`{name}` holds an empty mapping", "remove it")
        if usable:
            kept.append(selection)
    return tuple(kept)
