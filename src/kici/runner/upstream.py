"""What jobs before this one left behind, as `ctx` shows it (AU-26)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from kici.runner.values import decode_output
from kici.sdk.context import NeedResult
from kici.sdk.definitions import Job, JobDefinition, Need, Step, flat_steps
from kici.sdk.errors import OutputError
from kici.spec.states import JobStatus


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


class FanOutOutputs(Struct, frozen=True, kw_only=True):
    """`kici.sdk.context.MatrixOutputs`: by the text in the child's brackets, and joined."""

    by_matrix: Mapping[str, Any]
    merged: Mapping[str, Any]


class Upstream:
    """Statuses and outputs by job name; a fan-out's children are called `name (a, b)`."""

    def __init__(
        self,
        needs: tuple[Need, ...],
        statuses: Mapping[str, JobStatus],
        outputs: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._needs = {need.name: need for need in needs}
        self._statuses = statuses
        self._outputs = outputs

    def needs(self) -> Mapping[str, NeedResult[Any] | list[NeedResult[Any]]]:
        found: dict[str, NeedResult[Any] | list[NeedResult[Any]]] = {}
        for name in self._needs:
            children = self._children(name)
            found[name] = [self._result(child, name) for child in children] or self._result(name, name)
        return found

    def need(self, job: JobDefinition | str) -> NeedResult[Any]:
        name = self._declared(job)
        if self._children(name):
            raise OutputError(
                f"job {name!r} is a fan-out: use ctx.needs[{name!r}] or ctx.matrix_outputs(job)"
            )
        return self._result(name, name)

    def outputs_of(self, job: JobDefinition) -> Any:
        name = self._declared(job)
        if self._children(name):
            raise OutputError(f"job {name!r} is a fan-out: use ctx.matrix_outputs(job)")
        return self._value(name, job)

    def matrix_outputs_of(self, job: JobDefinition) -> FanOutOutputs:
        name = self._declared(job)
        children = self._children(name)
        if not children:
            raise OutputError(f"job {name!r} is not a fan-out: use ctx.job_outputs(job)")
        by_matrix: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for child in sorted(children):
            if child not in self._outputs:
                continue  # it left none: failed, skipped, or returned nothing
            value = self._value(child, job)
            by_matrix[child[len(name) + 2 : -1]] = value
            merged |= _as_mapping(value)
        return FanOutOutputs(by_matrix=by_matrix, merged=merged)

    def _declared(self, job: JobDefinition | str) -> str:
        name = job if isinstance(job, str) else job.name
        if name not in self._needs:
            known = ", ".join(self._needs) or "none"
            raise OutputError(
                f"job {name!r} is not declared in `needs` of this job (declared: {known}); add needs=[{name}]"
            )
        return name

    def _children(self, name: str) -> list[str]:
        return [job for job in self._statuses if job.startswith(f"{name} (") and job.endswith(")")]

    def _result(self, job: str, base_name: str) -> NeedResult[Any]:
        status = self._statuses.get(job)
        if status is None:
            raise OutputError(f"job {job!r} has no recorded status")
        definition = self._needs[base_name].job
        result: Any = None
        if job in self._outputs:
            result = self._outputs[job] if definition is None else self._value(job, definition)
        return NeedResult(name=job, status=status, result=result)

    def _value(self, job: str, definition: JobDefinition) -> Any:
        values = self._outputs.get(job, {})
        if not isinstance(definition, Job):
            return StepOutputs(job, definition, values)
        step: Step[Any] = definition.steps[0]
        if step.name not in values and self._statuses.get(job) != JobStatus.SUCCESS:
            raise OutputError(f"job {job!r} left no output; it ended as {self._statuses.get(job)}")
        return decode_output(values.get(step.name), step.returns, step=step.name)


def _as_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, StepOutputs):
        return value.merged()
    plain = msgspec.to_builtins(value)
    if not isinstance(plain, dict):
        raise OutputError("`merged` joins mappings and structs; read other outputs from `by_matrix`")
    return {str(key): item for key, item in plain.items()}
