"""The jobs of one local run as a graph that grows: matrices and generated jobs join it while it runs.

What joins, and with which edges, is decided by `kici.engine`, for this run as for one on the server.
"""

import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from msgspec import structs

from kici.cli.local.results import JobReport
from kici.engine.expansion import Node, expand_generated
from kici.engine.graph import PlannedJob, PlannedNeed
from kici.engine.matrix import Scalar, Variant, expand_matrix
from kici.engine.transitions import run_status
from kici.protocol.runner_v1 import InitResult
from kici.spec.lock import LockJob
from kici.spec.states import JobStatus

_TITLES = {"init": "Init", "dynamic": "Evaluate", "hooks": "Hooks"}


class Row:
    """One job or setup row. `report` is set once it ended, `begun` once it left the waiting ones."""

    __slots__ = ("begun", "index", "needs", "open", "planned", "report")

    def __init__(self, index: int, planned: PlannedJob) -> None:
        self.index = index
        self.planned = planned
        self.needs = list(planned.needs)
        self.open = 0  # upstream rows that have not ended
        self.begun = False
        self.report: JobReport | None = None

    @property
    def name(self) -> str:
        return self.planned.variant.job_name

    @property
    def base(self) -> str:
        return self.planned.variant.base_job_name

    def title(self, workflow: str) -> str:
        """What people read: `Init: build`, `Evaluate: reports`, `Hooks: ci`, else the job's name."""
        kind = _TITLES.get(self.planned.kind)
        return self.name if kind is None else f"{kind}: {self.planned.target or workflow}"


class Graph:
    """Rows by index, with their edges in both directions."""

    def __init__(self, planned: Sequence[PlannedJob], combination: dict[str, str]) -> None:
        """`combination`: only variants with these values are run (`--matrix`)."""
        self.rows: list[Row] = []
        self._downstream: defaultdict[int, list[int]] = defaultdict(list)
        self._combination = combination
        for entry in on_this_host(planned):
            self._add(entry)
        for row in self.rows:
            for need in row.needs:
                self._connect(row, need)

    def _add(self, planned: PlannedJob) -> Row:
        row = Row(len(self.rows), planned)
        self.rows.append(row)
        return row

    def _connect(self, row: Row, need: PlannedNeed) -> None:
        self._downstream[need.upstream].append(row.index)
        if self.rows[need.upstream].report is None:
            row.open += 1

    def _also_needs(self, row: Row, need: PlannedNeed) -> None:
        row.needs.append(need)
        self._connect(row, need)

    def downstream(self, row: Row) -> list[Row]:
        """Who needs it, each once."""
        return [self.rows[index] for index in dict.fromkeys(self._downstream[row.index])]

    def ended(self, row: Row) -> None:
        """`row` has its report: those who need it wait for one less."""
        for index in self._downstream[row.index]:
            self.rows[index].open -= 1

    def unmet(self, row: Row) -> tuple[str, str, Row] | None:
        """(upstream, how it ended, one of its rows) of the first need that will never be satisfied.

        A fan-out or a group counts once every child of it has ended.
        """
        for key, needs in self._needs_by_key(row):
            ended = [report.status for need in needs if (report := self.rows[need.upstream].report)]
            if len(ended) < len(needs):
                continue
            status = ended[0] if len(ended) == 1 else run_status(ended)
            if status not in needs[0].run_on:
                return needs[0].group or key, str(status), self.rows[needs[0].upstream]
        return None

    def _needs_by_key(self, row: Row) -> Iterator[tuple[str, list[PlannedNeed]]]:
        found: dict[str, list[PlannedNeed]] = {}
        for need in row.needs:
            upstream = self.rows[need.upstream]
            key = upstream.name if upstream.planned.kind != "job" else need.group or upstream.base
            found.setdefault(key, []).append(need)
        yield from found.items()

    def upstream(self, row: Row) -> list[Row]:
        """The jobs it needs, without setup rows."""
        return [
            upstream
            for need in row.needs
            if (upstream := self.rows[need.upstream]).planned.kind == "job" and upstream.report is not None
        ]

    def upstream_groups(self, row: Row) -> dict[str, list[str]]:
        """Groups, and base jobs that fan out, with the names of their jobs in order."""
        groups: dict[str, list[str]] = {}
        for need in row.needs:
            upstream = self.rows[need.upstream]
            if upstream.planned.kind == "dynamic" and need.group:
                groups.setdefault(need.group, [])
            elif upstream.planned.kind == "job":
                if need.group:
                    groups.setdefault(need.group, []).append(upstream.name)
                if fans_out(upstream.planned):
                    groups.setdefault(upstream.base, []).append(upstream.name)
        return groups

    def with_upstream(self, rows: Iterable[Row]) -> set[int]:
        """Indexes of these and of everything they need."""
        found: set[int] = set()
        wanted = [row.index for row in rows]
        while wanted:
            index = wanted.pop()
            if index not in found:
                found.add(index)
                wanted += [need.upstream for need in self.rows[index].needs]
        return found

    # ── what joins later ────────────────────────────────────────────────────────────────────────

    def expand_matrix(self, init: Row, result: InitResult) -> list[Row]:
        """Put the variants of `init`'s target in place of the row that stood for them. Raises
        InvalidMatrix. Answers with all of them."""
        first = next(
            row
            for row in self.rows
            if row.planned.kind == "job" and row.planned.job.name == init.planned.target
        )
        variants = [
            variant
            for variant in expand_matrix(first.planned.job, result.matrix or {})
            if fits(variant, self._combination)
        ]
        planned = [
            structs.replace(first.planned, variant=variant, fanout_index=index, fanout_total=len(variants))
            for index, variant in enumerate(variants)
        ]
        if not planned:
            return []
        first.planned = planned[0]
        downstream = self.downstream(first)
        rows = [first]
        for entry in planned[1:]:
            row = self._add(structs.replace(entry, needs=tuple(first.needs)))
            rows.append(row)
            for need in row.needs:
                self._connect(row, need)
            for other in downstream:
                for need in [need for need in other.needs if need.upstream == first.index]:
                    self._also_needs(other, structs.replace(need, upstream=row.index))
        return rows

    def expand_generated(self, generator: Row, jobs: Sequence[LockJob]) -> list[Row]:
        """The rows of what a generator made. Raises InvalidGraph or InvalidMatrix."""
        nodes = [Node.of(structs.replace(row.planned, needs=tuple(row.needs))) for row in self.rows]
        expansion = expand_generated(jobs, generator.index, nodes)
        rows = [self._add(planned) for planned in on_this_host(expansion.added)]
        for row in rows:
            for need in row.needs:
                self._connect(row, need)
        for index, need in expansion.edges:
            self._also_needs(self.rows[index], need)
        return rows


def on_this_host(planned: Iterable[PlannedJob]) -> Iterator[PlannedJob]:
    """`runs_on_all` is this machine: one child, named after it (AU-115)."""
    for entry in planned:
        if entry.job.runs_on_all is None or entry.kind != "job":
            yield entry
        else:
            name = f"{entry.variant.base_job_name} ({socket.gethostname()})"
            yield structs.replace(entry, variant=structs.replace(entry.variant, job_name=name))


def fans_out(planned: PlannedJob) -> bool:
    """It stands for one of several, even when there is only one."""
    return planned.job.matrix is not None or planned.job.runs_on_all is not None


def fits(variant: Variant, combination: dict[str, str]) -> bool:
    """Whether the variant has these values, as far as it has the keys."""
    return all(
        key not in variant.values or _word(variant.values[key]) == value
        for key, value in combination.items()
    )


def _word(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def failed(status: JobStatus) -> bool:
    """Whether it stops what has not started."""
    return status in {JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.TIMED_OUT_STALE}
