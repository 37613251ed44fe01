"""The child process: imports author code, collects every mistake, answers with shaped workflows.

Started by `kici.compiler.worker` with the interpreter of the workflows' environment. Whatever author code
prints goes to stderr; stdout belongs to the exchange.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator
from traceback import walk_tb
from types import FrameType, ModuleType
from typing import Any, cast

from kici import sdk
from kici.compiler.exchange import (
    Loading,
    Reply,
    Request,
    ShapedFixture,
    ShapedWorkflow,
    decode_request,
    encode,
)
from kici.compiler.reading import read_by
from kici.compiler.shape import Shaper
from kici.sdk import problems
from kici.sdk.definitions import Fixture, Trigger, Workflow
from kici.sdk.errors import DefinitionError
from kici.sdk.events import Event
from kici.sdk.fixtures import resolve
from kici.sdk.loader import load_fixture_file, load_workflow_file
from kici.sdk.problems import nearest, report
from kici.sdk.shaping import relative
from kici.sdk.source import SourceLocation

_UNEXPECTED = re.compile(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'.*")
_TOUCHES = {
    "open": "opened a file",
    "os.system": "started a process",
    "os.exec": "started a process",
    "os.posix_spawn": "started a process",
    "subprocess.Popen": "started a process",
    "socket.connect": "opened a connection",
    "socket.getaddrinfo": "looked up a host",
}


class _Watch:
    """W603: notes what an import does to the world outside, once per place (AU-2)."""

    def __init__(self, kici_dir: str) -> None:
        self.below = os.path.join(kici_dir, "")
        self.active = False
        self.seen: set[tuple[str, int]] = set()

    def __call__(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if not self.active or event not in _TOUCHES:
            return
        frame = self._author_frame(sys._getframe(1))  # noqa: SLF001 - audit hooks get no frame
        if frame is None or (place := (frame.f_code.co_filename, frame.f_lineno)) in self.seen:
            return
        self.seen.add(place)
        report(
            "W603",
            f"importing this file {_TOUCHES[event]}",
            "do it in a step: importing must have no side effects",
            source=SourceLocation(file=place[0], line=place[1]),
            severity="warning",
        )

    def _author_frame(self, frame: FrameType | None) -> FrameType | None:
        """The author's frame that caused it, unless the import system stands in between."""
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith("<frozen importlib"):
                return None
            if name.startswith(self.below):
                return frame
            frame = frame.f_back
        return None


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    request = decode_request(sys.stdin.buffer.read())
    shaper = Shaper(request.root, request.uses)
    watch = _Watch(request.kici_dir)
    sys.addaudithook(watch)
    with problems.collect() as found:
        modules: dict[str, ModuleType] = {}
        for file in request.files:
            answers.write(encode(Loading(file=relative(request.root, file))) + b"\n")
            watch.active = True
            try:
                modules[file] = load_workflow_file(request.kici_dir, file)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                watch.active = False
                _report_import_error(error, file, request.kici_dir)
            watch.active = False
        workflows = _shape_all(modules, shaper)
        fixtures = _fixtures(request, shaper)
    reply = Reply(
        problems=[shaper.problem(problem) for problem in found], workflows=workflows, fixtures=fixtures
    )
    answers.write(encode(reply) + b"\n")
    sys.stdout.flush()
    if os.getsid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with whatever author code started; its exit handlers have no say
    os._exit(0)


def _shape_all(modules: dict[str, ModuleType], shaper: Shaper) -> list[ShapedWorkflow]:
    shaped: list[ShapedWorkflow] = []
    first_of: dict[str, Workflow] = {}
    for found, (file, export) in sorted(
        _homes(modules).items(), key=lambda item: (item[1][0], item[0].source.line, item[0].source.column)
    ):
        other = first_of.setdefault(found.name, found)
        if other is not found:
            place = shaper.location(other.source)
            report(
                "E107",
                f"two workflows are named {found.name!r}; the other is at {place.file}:{place.line}",
                "give one another name",
                source=found.source,
            )
        shaped.append(shaper.workflow(found, file, export))
    return shaped


def _fixtures(request: Request, shaper: Shaper) -> list[ShapedFixture]:
    shaped: list[ShapedFixture] = []
    first_of: dict[str, Fixture] = {}
    for file in request.fixture_files:
        try:
            module = load_fixture_file(request.kici_dir, file)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _report_import_error(error, file, request.kici_dir)
            continue
        for found in _fixtures_of(module):
            other = first_of.setdefault(found.id, found)
            if other is found:
                shaped.extend(_fixture(found, shaper))
            else:
                place = shaper.location(other.source)
                report(
                    "E501",
                    f"two fixtures have the id {found.id!r}; the other is at {place.file}:{place.line}",
                    "give one another id",
                    source=found.source,
                )
    return shaped


def _fixtures_of(module: ModuleType) -> Iterator[Fixture]:
    """Those written in this very file; others were imported from where they stand."""
    seen: set[int] = set()
    for value in vars(module).values():
        for entry in cast("list[object]", value) if isinstance(value, list | tuple) else (value,):
            if (
                isinstance(entry, Fixture)
                and entry.source.file == module.__file__
                and id(entry) not in seen
            ):
                seen.add(id(entry))
                yield entry


def _fixture(found: Fixture, shaper: Shaper) -> Iterator[ShapedFixture]:
    """Nothing when its function fails (E502)."""
    if callable(found.event):
        import asyncio  # 20 ms that most repositories save

        try:
            found = asyncio.run(resolve(found))
        except DefinitionError as error:
            report(
                error.problem.code, error.problem.message, error.problem.help, source=error.problem.source
            )
            return
    event = found.event
    if isinstance(event, Trigger) and not event.locked:
        return  # its constructor has reported why
    yield ShapedFixture(
        id=found.id,
        source=shaper.location(found.source),
        trigger=event.locked[0] if isinstance(event, Trigger) else None,
        event=event.wire if isinstance(event, Event) else None,
        branch=found.branch,
        sha=found.sha,
        repo=found.repo,
        pr=found.pr,
        secrets=dict(found.secrets),
        workflow=found.workflow,
        inputs=dict(found.inputs),
        payload=None if found.payload is None else dict(found.payload),
    )


def _homes(modules: dict[str, ModuleType]) -> dict[Workflow, tuple[str, str]]:
    """Every workflow with the file and the name that hold it: where it was written, if that file binds it."""
    homes: dict[Workflow, tuple[str, str]] = {}
    for file, module in modules.items():
        bound = list(_bindings(module))
        for export, found in bound:
            if found not in homes or (found.source.file == file and homes[found][0] != file):
                homes[found] = (file, export)
        if not bound:
            report(
                "E004",
                "this file binds no workflow",
                'bind one: ci = workflow("ci", ...), or start the file name with _ if it only helps others',
                source=SourceLocation(file=file, line=1),
            )
    return homes


def _bindings(module: ModuleType) -> Iterator[tuple[str, Workflow]]:
    for export, value in vars(module).items():
        if isinstance(value, Workflow):
            yield export, value
        elif isinstance(value, list | tuple):
            for entry in cast("list[object]", value):
                if isinstance(entry, Workflow):
                    yield export, entry


def _report_import_error(error: BaseException, file: str, kici_dir: str) -> None:
    if isinstance(error, SyntaxError) and error.filename:
        where = SourceLocation(file=error.filename, line=error.lineno or 1, column=error.offset or 1)
        report("E002", f"syntax error: {error.msg}", read_by(), source=where)
        return
    where = SourceLocation(file=file, line=1)
    for frame, line in walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(os.path.join(kici_dir, "")):
            where = SourceLocation(file=frame.f_code.co_filename, line=line)
    reason = str(error).partition("\n")[0]
    text = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    report("E003", f"importing this file raised {text}", _remedy(error, kici_dir), source=where)


def _remedy(error: BaseException, kici_dir: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package != "kici":
            if own := _in_repository(package, os.path.dirname(kici_dir)):
                # Never `uv add`: a stranger may have taken that name in the index.
                return (
                    f"{own} is part of this repository and not of the workflows' environment: import it inside a"
                    " step, or declare it as a path dependency in .kici/pyproject.toml"
                )
            return f"is it installed? run `uv add {package}` in .kici; a helper belongs into .kici itself"
    if isinstance(error, TypeError) and (match := _UNEXPECTED.fullmatch(str(error))):
        code = getattr(getattr(sdk, match[1], None), "__code__", None)
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()
        guess = nearest(match[2], names)
        return f"did you mean `{guess}`?" if guess else ""
    if isinstance(error, ImportError) and error.name == "kici":
        wanted = str(error).partition("'")[2].partition("'")[0]
        guess = nearest(wanted, sdk.__all__)
        return f"did you mean `{guess}`?" if guess else "see kici.__all__ for what there is"
    if isinstance(error, SystemExit):
        return "a workflow file only defines things; do the work in a step"
    return ""


def _in_repository(package: str, root: str) -> str:
    """Where the repository itself has a module of that name, relative to `root`; else empty."""
    for place in (package, f"{package}.py", f"src/{package}", f"src/{package}.py"):
        found = os.path.join(root, *place.split("/"))
        if os.path.isfile(found) if place.endswith(".py") else os.path.isdir(found):
            return place
    return ""
