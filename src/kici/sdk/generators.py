"""The constructor of generators: functions that return jobs while a run goes on (AU-43, AU-44)."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from kici.sdk.context import GenerateContext
from kici.sdk.definitions import DynamicJobs, JobDefinition
from kici.sdk.edges import NeedLike, read_needs
from kici.sdk.options import Options, Pending, check_name, name_of_function
from kici.sdk.source import SourceLocation, caller
from kici.sdk.values import Maybe

GenerateFunction: TypeAlias = Callable[[GenerateContext], Maybe[Sequence[JobDefinition]]]


class PendingGenerator(Pending):
    """What `dynamic_jobs(...)` returns: it waits for the function it decorates."""

    def __init__(self, name: str | None, needs: Sequence[NeedLike], source: SourceLocation) -> None:
        self.name = name
        self.needs = needs
        self.source = source

    def __call__(self, fn: GenerateFunction, /) -> DynamicJobs:
        group = (
            check_name(self.name, "group", self.source) if self.name is not None else name_of_function(fn)
        )
        given = Options(f"generator {group!r}", {"needs": self.needs}, ("needs",), self.source)
        if not callable(fn):
            given.report("E119", f"a generator is a function, not {type(fn).__name__}")
        return DynamicJobs(
            group=group,
            fn=cast("Callable[..., Any]", fn),
            source=self.source,
            needs=read_needs(given),
        )


def dynamic_jobs(
    group: str | None = None, /, *, needs: Sequence[NeedLike] = ()
) -> Callable[[GenerateFunction], DynamicJobs]:
    """A function that returns jobs, run when its needs have ended. Their steps stand at module level, with
    `.bind(...)` for what differs; a closure cannot travel (E603).

    >>> @dynamic_jobs("reports", needs=[package])
    ... async def reports(g: GenerateContext) -> list[MultiJob]:
    ...     return [job(f"report-{t}", runs_on="linux", steps=[scan.bind(target=t)]) for t in ("api", "web")]
    """
    source = caller()
    if callable(group):  # @dynamic_jobs without parentheses
        return cast("Any", PendingGenerator(None, (), source)(cast("GenerateFunction", group)))
    return PendingGenerator(group, needs, source)
