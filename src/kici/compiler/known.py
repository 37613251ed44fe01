"""Names of secrets and environments that `kici types` has written down, and uses of others (W303, AU-92)."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from msgspec import Struct

from kici.compiler.exchange import ShapedWorkflow
from kici.compiler.reading import SecretUse
from kici.sdk.problems import Problem, nearest
from kici.sdk.source import SourceLocation
from kici.spec import lock

STUB = "types/kici_secrets.pyi"


class KnownNames(Struct, frozen=True, kw_only=True):
    environments: frozenset[str]
    secrets: frozenset[str]

    @classmethod
    def read(cls, kici_dir: Path) -> Self | None:
        """None without a stub that can be read: then nothing is known, and nothing is reported."""
        try:
            tree = ast.parse((kici_dir / STUB).read_bytes())
        except (OSError, SyntaxError, ValueError):
            return None
        environments: set[str] = set()
        secrets: set[str] = set()
        for node in tree.body:
            match node:
                case ast.Assign(
                    targets=[ast.Name(id=name)],
                    value=ast.Subscript(value=ast.Name(id="Literal"), slice=listed),
                ):
                    names = environments if name == "Environment" else secrets
                    names.update(_texts(listed))
                case _:
                    pass
        return cls(environments=frozenset(environments), secrets=frozenset(secrets))

    def check(self, shaped: Iterable[ShapedWorkflow], uses: Iterable[SecretUse]) -> Iterator[Problem]:
        for use in uses:
            if use.name not in self.secrets:
                yield _unknown("secret", use.name, self.secrets, use.source)
        for workflow in shaped:
            for reference in (
                *(registry.token_secret for registry in workflow.lock.registries),
                *workflow.lock.install_env,
            ):
                environment, _, name = reference.partition(":")
                yield from self._environment(environment, workflow.source)
                if name and name not in self.secrets:
                    yield _unknown("secret", name, self.secrets, workflow.source)
            for job in workflow.lock.jobs:
                for value in job.environments:
                    if not value.dynamic and value.inline is None:
                        yield from self._environment(value.value, _place(job))

    def _environment(self, name: str, source: SourceLocation) -> Iterator[Problem]:
        if name not in self.environments:
            yield _unknown("environment", name, self.environments, source)


def _texts(listed: ast.expr) -> Iterator[str]:
    for entry in listed.elts if isinstance(listed, ast.Tuple) else (listed,):
        if isinstance(entry, ast.Constant) and isinstance(entry.value, str) and entry.value:
            yield entry.value


def _place(job: lock.LockJob) -> SourceLocation:
    return SourceLocation(file=job.source.file, line=job.source.line, column=job.source.column)


def _unknown(what: str, name: str, known: frozenset[str], source: SourceLocation) -> Problem:
    guess = nearest(name, sorted(known))
    return Problem(
        code="W303",
        message=f"{what} {name!r} is unknown to .kici/{STUB}",
        help=f"did you mean {guess!r}?" if guess else "add it on the server, or run `kici types` again",
        source=source,
        severity="warning",
    )
