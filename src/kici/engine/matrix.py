"""One job per combination of a matrix (OR-134, AU-40). Pure."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import ClassVar

from msgspec import Struct, structs

from kici.spec.errors import InvalidInput
from kici.spec.lock import LockJob, Matrix
from kici.spec.matrix import MAX_NAME_LENGTH, value_text, wrong_dimension, wrong_value

MAX_VARIANTS = 256

Scalar = str | int | float | bool


class InvalidMatrix(InvalidInput):
    """The job fails with category `matrix_expansion`; no step runs."""

    code: ClassVar[str] = "matrix_expansion"


class Variant(Struct, frozen=True, kw_only=True):
    """One job to run. Without a matrix there is exactly one, with `label` None and no values.

    `label` is what stands in the name, `linux, 3.12`; `display` says more: `os:linux, python:3.12`.
    """

    job_name: str
    base_job_name: str
    label: str | None = None
    display: str | None = None
    values: dict[str, Scalar] = {}


def _same(a: Scalar, b: Scalar) -> bool:
    """Equal with equal type: `1`, `1.0` and `True` are three values."""
    return type(a) is type(b) and a == b


def combinations(job: LockJob) -> list[dict[str, Scalar]]:
    """The product without what `exclude` names, then what `include` appends, each combination once."""
    matrix = job.matrix
    if matrix is None:
        return []
    if matrix.type != "static":
        raise InvalidMatrix(f"job {job.name!r}: its matrix is computed at run time")
    found: list[dict[str, Scalar]] = []
    if matrix.values:
        total = 1
        for options in matrix.values.values():
            total *= len(options)
        if total > 100_000:  # before exclusions; anything near this is a mistake
            raise InvalidMatrix(
                f"job {job.name!r}: its matrix has {total} combinations (max {MAX_VARIANTS})"
            )
        found = [
            dict(zip(matrix.values, values, strict=True)) for values in product(*matrix.values.values())
        ]
    kept = [
        combination
        for combination in found
        if not any(
            entry
            and all(key in combination and _same(combination[key], value) for key, value in entry.items())
            for entry in job.exclude
        )
    ]
    seen = {_identity(combination) for combination in kept}
    for entry in job.include:
        if _identity(entry) not in seen:
            seen.add(_identity(entry))
            kept.append(dict(entry))
    return kept


def _identity(combination: dict[str, Scalar]) -> frozenset[tuple[str, str, Scalar]]:
    return frozenset((key, type(value).__name__, value) for key, value in combination.items())


def expand(job: LockJob) -> list[Variant]:
    """The variants of `job` in matrix order. Raises InvalidMatrix for none, for more than 256, for two that
    would carry one name, and for what cannot name a job."""
    if job.matrix is None:
        return [Variant(job_name=job.name, base_job_name=job.name)]
    kept = combinations(job)
    if not 1 <= len(kept) <= MAX_VARIANTS:
        raise InvalidMatrix(
            f"job {job.name!r}: its matrix has {len(kept)} combinations (1 to {MAX_VARIANTS})"
        )
    variants: dict[str, Variant] = {}
    for values in kept:
        order = [key for key in job.matrix.values if key in values]
        order += [key for key in values if key not in job.matrix.values]
        for key in order:
            if (wrong := wrong_dimension(key)) is not None:
                raise InvalidMatrix(f"job {job.name!r}: matrix dimension {key!r:.100} {wrong}")
            if (wrong := wrong_value(values[key])) is not None:
                raise InvalidMatrix(
                    f"job {job.name!r}: matrix value {values[key]!r:.100} of {key!r} {wrong}"
                )
        label = ", ".join(value_text(values[key]) for key in order)
        name = f"{job.name} ({label})"
        if len(name) > MAX_NAME_LENGTH:
            raise InvalidMatrix(
                f"job {job.name!r}: the name {name[:40] + '…'!r} of a combination of its matrix has {len(name)} "
                f"characters; {MAX_NAME_LENGTH} are allowed"
            )
        if name in variants:
            raise InvalidMatrix(f"job {job.name!r}: two combinations of its matrix are both named {name!r}")
        variants[name] = Variant(
            job_name=name,
            base_job_name=job.name,
            label=label,
            display=", ".join(f"{key}:{value_text(values[key])}" for key in order),
            values=values,
        )
    return list(variants.values())


def is_dynamic(job: LockJob) -> bool:
    """Its matrix is known only once an `__init__` job has evaluated it."""
    return job.matrix is not None and job.matrix.type == "dynamic"


def expand_matrix(job: LockJob, values: Mapping[str, Sequence[Scalar]]) -> list[Variant]:
    """The variants of a job whose matrix came to `values` at run time; `include` and `exclude` hold as ever.
    Raises InvalidMatrix."""
    matrix = Matrix(values={key: list(options) for key, options in values.items()})
    return expand(structs.replace(job, matrix=matrix))
