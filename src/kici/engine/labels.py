"""Which agent can take a job (OR-146, AU-18). Labels are lower case on both sides. Pure."""

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from msgspec import Struct

from kici.engine.patterns import InvalidPattern, compile_regex
from kici.spec.lock import LabelMatcher, LockJob


class LabelPatterns(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The regex half of a query; the column `runs_on_patterns` holds it as JSON."""

    include: tuple[LabelMatcher, ...] = ()
    exclude: tuple[LabelMatcher, ...] = ()


class LabelQuery(Struct, frozen=True, kw_only=True):
    """Every `required` label and include pattern must be found, no excluded one."""

    required: tuple[str, ...]  # sorted, lower case
    excluded: tuple[str, ...] = ()
    patterns: LabelPatterns | None = None


def normalise(labels: Collection[str]) -> list[str]:
    """As stored and compared: trimmed, lower case, unique, sorted."""
    return sorted({label.strip().lower() for label in labels} - {""})


def query_of(job: LockJob) -> LabelQuery:
    """What `job` asks of an agent."""
    patterns = LabelPatterns(
        include=tuple(m for m in job.runs_on if m.kind == "regex"),
        exclude=tuple(m for m in job.exclude_labels if m.kind == "regex"),
    )
    return LabelQuery(
        required=tuple(normalise([m.value for m in job.runs_on if m.kind == "exact"])),
        excluded=tuple(normalise([m.value for m in job.exclude_labels if m.kind == "exact"])),
        patterns=patterns if patterns.include or patterns.exclude else None,
    )


@lru_cache(maxsize=2048)
def _compiled(source: str, flags: str) -> Any:
    # Labels are stored in lower case, so that case in a pattern cannot be meant.
    return compile_regex(source, flags + "i")


def _any_label(matcher: LabelMatcher, labels: Collection[str]) -> bool:
    """A regex that RE2 refuses has none. The compiler reports it (E204), but a generator of jobs may bring one,
    and the dispatcher must not stumble over it."""
    try:
        regex = _compiled(matcher.source, matcher.flags)
    except InvalidPattern:
        return False
    return any(regex.search(label) is not None for label in labels)


def patterns_match(patterns: LabelPatterns | None, labels: Collection[str]) -> bool:
    """The post-filter after the exact labels were compared in SQL."""
    return patterns is None or (
        all(_any_label(matcher, labels) for matcher in patterns.include)
        and not any(_any_label(matcher, labels) for matcher in patterns.exclude)
    )


def matches(query: LabelQuery, labels: Collection[str]) -> bool:
    """Whether an agent with these (normalised) labels may take the job."""
    have = labels if isinstance(labels, set | frozenset) else frozenset(labels)
    return (
        have.issuperset(query.required)
        and have.isdisjoint(query.excluded)
        and patterns_match(query.patterns, have)
    )
