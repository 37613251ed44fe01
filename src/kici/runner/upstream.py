"""What jobs before this one left behind, as `ctx` shows it (AU-26)."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kici.runner.values import decode_output
from kici.sdk.definitions import DynamicJobs, Job, JobDefinition, MultiJob, Need, Step, flat_steps
from kici.sdk.errors import OutputError
from kici.sdk.results import NeedResult
from kici.spec.states import JobStatus

_FAILED = frozenset({JobStatus.FAILED, JobStatus.TIMED_OUT_STALE})

_MATRIX, _HOSTS = "ctx.matrix_outputs", "ctx.host_outputs"


class StepOutputs:
    """Outputs of one finished job with several steps."""

    def __init__(self, job: str, definition: JobDefinition, values: Mapping[str, Any]) -> None:
        self._job = job
        self._definition = definition
        self._values = values

    def of(self, step: Step[Any], /) -> Any:
        own = next(
            (flat.step for flat in flat_steps(self._definition.steps) if flat.step.name == step.name), None
        )
        if own is None:
            raise OutputError(f"job {self._job!r} has no step {step.name!r}")
        return decode_output(self._values.get(step.name), own.returns, step=step.name)

    def merged(self) -> dict[str, Any]:
        return dict(self._values)

    def __repr__(self) -> str:
        return f"StepOutputs({self._job!r}, {dict(self._values)!r})"


class FanOutOutputs(Struct, frozen=True, kw_only=True):
    """`kici.sdk.services.MatrixOutputs`: by the text in the child's brackets, in order, and joined."""

    by_matrix: Mapping[str, Any]

    @property
    def merged(self) -> Mapping[str, Any]:
        """Only outputs that are mappings or structs can be joined; whoever reads the others need not care."""
        joined: dict[str, Any] = {}
        for value in self.by_matrix.values():
            joined |= _as_mapping(value)
        return joined


class HostOutputs(Struct, frozen=True, kw_only=True):
    """`kici.sdk.services.HostOutputs`: by what stands in the child's brackets."""

    by_host: Mapping[str, Any]
    succeeded: Sequence[str]
    failed: Sequence[str]

    def column(self, key: str, /) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for host, value in self.by_host.items():
            row = _as_mapping(value)
            if key in row:
                found[host] = row[key]
        return found


class Upstream:
    """Statuses and outputs by job name. `groups`: the ordered jobs of a group or of a fan-out by its name; a
    fan-out's children are called `name (a, b)`."""

    def __init__(
        self,
        needs: tuple[Need, ...],
        statuses: Mapping[str, JobStatus],
        outputs: Mapping[str, Mapping[str, Any]],
        groups: Mapping[str, Sequence[str]] | None = None,
        generators: Mapping[DynamicJobs, str] | None = None,
    ) -> None:
        """`generators` has the group of each, for needs that name the object."""
        self._statuses = statuses
        self._outputs = outputs
        self._groups = groups or {}
        self._generators = generators or {}
        self._needs = {self._key(need): need for need in needs}

    def _key(self, need: Need) -> str:
        if isinstance(need.job, DynamicJobs):
            return self._generators.get(need.job) or need.group
        return need.name or need.group

    def needs(self) -> Mapping[str, NeedResult[Any] | list[NeedResult[Any]]]:
        found: dict[str, NeedResult[Any] | list[NeedResult[Any]]] = {}
        for name in self._needs:
            children = self._children(name)
            if children is None:
                found[name] = self._result(name, name)
            else:
                found[name] = [self._result(child, name) for child in children]
        return found

    def need(self, job: JobDefinition | DynamicJobs | str) -> NeedResult[Any]:
        name = self._declared(job)
        if self._children(name) is not None:
            remedy = ""
            if isinstance(job, Job | MultiJob) and not self._is_group(name):
                remedy = f" or {_accessors(job)[0]}(job)"
            what = "group" if self._is_group(name) else "fan-out"
            raise OutputError(f"job {name!r} is a {what}: use ctx.needs[{name!r}]{remedy}")
        return self._result(name, name)

    def outputs_of(self, job: JobDefinition) -> Any:
        name = self._declared(job)
        if self._children(name) is not None:
            raise OutputError(f"job {name!r} is a fan-out: use {_accessors(job)[0]}(job)")
        return self._value(name, job)

    def matrix_outputs_of(self, job: JobDefinition) -> FanOutOutputs:
        by_matrix: dict[str, Any] = {}
        for label, child in sorted(self._labelled(job, _MATRIX)):
            if child not in self._outputs:
                continue  # it left none: failed, skipped, or returned nothing
            by_matrix[label] = self._value(child, job)
        return FanOutOutputs(by_matrix=by_matrix)

    def host_outputs_of(self, job: JobDefinition) -> HostOutputs:
        children = self._labelled(job, _HOSTS)
        statuses = {label: self._statuses.get(child) for label, child in children}
        return HostOutputs(
            by_host={label: self._value(child, job) for label, child in children if child in self._outputs},
            succeeded=[label for label, status in statuses.items() if status == JobStatus.SUCCESS],
            failed=[label for label, status in statuses.items() if status in _FAILED],
        )

    def _labelled(self, job: JobDefinition, accessor: str) -> list[tuple[str, str]]:
        """(what stands in its brackets, its name) of each child. `accessor` is what the author called."""
        name = self._declared(job)
        children = self._children(name)
        if children is None:
            raise OutputError(f"job {name!r} is not a fan-out: use ctx.job_outputs(job)")
        right = _accessors(job)
        if accessor not in right:
            kind = "a matrix" if accessor == _HOSTS else "one job per host"
            raise OutputError(f"job {name!r} is {kind}: use {right[0]}(job)")
        return [(child[len(name) + 2 : -1], child) for child in children]

    def _declared(self, job: JobDefinition | DynamicJobs | str) -> str:
        match job:
            case str():
                name = job
            case DynamicJobs():
                name = self._generators.get(job) or job.group
            case _:
                name = job.name
        if name not in self._needs:
            known = ", ".join(self._needs) or "none"
            raise OutputError(
                f"job {name!r} is not declared in `needs` of this job (declared: {known}); add needs=[{name}]"
            )
        return name

    def _is_group(self, name: str) -> bool:
        need = self._needs[name]
        return bool(need.group) or isinstance(need.job, DynamicJobs)

    def _children(self, name: str) -> list[str] | None:
        """None for a job that is one job."""
        if name in self._groups:
            return list(self._groups[name])
        if self._is_group(name):
            return []
        found = [job for job in self._statuses if job.startswith(f"{name} (") and job.endswith(")")]
        return found or None

    def _result(self, job: str, base_name: str) -> NeedResult[Any]:
        status = self._statuses.get(job)
        if status is None:
            raise OutputError(f"job {job!r} has no recorded status")
        definition = self._needs[base_name].job
        result: Any = None
        if job in self._outputs:
            is_known = isinstance(definition, Job | MultiJob)
            result = self._value(job, definition) if is_known else self._outputs[job]
        return NeedResult(name=job, status=status, result=result)

    def _value(self, job: str, definition: JobDefinition) -> Any:
        values = self._outputs.get(job, {})
        if not isinstance(definition, Job):
            return StepOutputs(job, definition, values)
        step: Step[Any] = definition.steps[0]
        if step.name not in values and self._statuses.get(job) != JobStatus.SUCCESS:
            raise OutputError(f"job {job!r} left no output; it ended as {self._statuses.get(job)}")
        return decode_output(values.get(step.name), step.returns, step=step.name)


def _accessors(job: JobDefinition) -> list[str]:
    """What reads the outputs of its children; both for a matrix on every host."""
    options = job.options
    has_matrix = options.matrix is not None or options.matrix_function is not None
    return [*([_MATRIX] if has_matrix else []), *([_HOSTS] if options.runs_on_all is not None else [])] or [
        _MATRIX
    ]


def _as_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, StepOutputs):
        return value.merged()
    plain = msgspec.to_builtins(value)
    if not isinstance(plain, dict):
        raise OutputError("`merged` joins mappings and structs; read other outputs from `by_matrix`")
    return {str(key): item for key, item in plain.items()}
