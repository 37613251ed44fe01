"""What a workflow file shows without being run: syntax, forgotten awaits, interpolated shell scripts, secrets
by name, closures in generators."""

import ast
import sys
from collections.abc import Iterator

from msgspec import Struct

from kici.compiler.exchange import AccessorUse
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation

# Every member of a context whose call is a coroutine, by its way from the context.
AWAITED = frozenset(
    {
        *("sh", "run", "emit", "set_secret_output", "attest_provenance"),
        *(f"secrets.{name}" for name in ("get", "expose", "has", "list", "get_meta")),
        *("secrets.mount_file", "secrets.expose_file", "cache.restore", "cache.save"),
        *("kici.inventory.query", "kici.inventory.get", "kici.infrastructure.list"),
        *("kici.oidc.token", "kici.host.request_reboot"),
    }
)
_ACCESSORS = frozenset({"job_outputs", "matrix_outputs", "host_outputs", "need"})
_CONTEXTS = frozenset({"Context", "HookContext", "RuleContext", "GenerateContext"})
_BLOCKING = frozenset({"SyncContext", "SyncHookContext"})
_BY_NAME = frozenset({"get", "expose", "get_meta", "mount_file"})
_DEFINING = frozenset({"step", "job", "wait_for_step"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class SecretUse(Struct, frozen=True, kw_only=True):
    """A secret that is asked for by a literal name (W303)."""

    name: str
    source: SourceLocation


def read_by() -> str:
    """Newer syntax is no syntax to an older interpreter, and only this says so."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor} reads it"


class FileReading:
    """Problems and accessor uses of one file. `shown` is its path as people know it, `file` absolute."""

    def __init__(self, file: str, shown: str, content: bytes) -> None:
        self.file = file
        self.shown = shown
        self.problems: list[Problem] = []
        self.uses: list[AccessorUse] = []
        self.secrets: list[SecretUse] = []
        self.mentions_fixtures = False
        try:
            tree = ast.parse(content, filename=file)
        except SyntaxError as error:
            self._problem(
                "E002",
                f"syntax error: {error.msg}",
                read_by(),
                error.lineno or 1,
                error.offset or 1,
                "error",
            )
        except ValueError as error:  # a NUL byte
            self._problem("E002", f"syntax error: {error}", "", 1, 1, "error")
        else:
            for node in ast.walk(tree):
                if isinstance(node, _Function):
                    if (context := _context_of(node)) is not None:
                        self._function(node, context[0], blocking=context[1])
                    if any(_called_name(entry) == "dynamic_jobs" for entry in node.decorator_list):
                        self._generator(node)
                elif isinstance(node, ast.Name) and node.id == "fixture":
                    self.mentions_fixtures = True

    def problems_of(self, code: str) -> list[Problem]:
        return [problem for problem in self.problems if problem.code == code]

    def _function(self, function: _Function, ctx: str, *, blocking: bool) -> None:
        first_line = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        for node in _own_nodes(function):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not blocking:
                called = _path_from(ctx, node.value.func)
                if called in AWAITED:
                    self._warn(
                        node,
                        "W602",
                        f"{ctx}.{called}(...) is not awaited: nothing runs",
                        f"write `await {ctx}.{called}(...)`",
                    )
            if not isinstance(node, ast.Call):
                continue
            called = _path_from(ctx, node.func)
            match called, node.args:
                case "sh", [script, *_] if _is_interpolated(script):
                    self._warn(
                        script,
                        "W601",
                        "the script is put together from values, which the shell will read as code",
                        """pass values as keywords: ctx.sh('echo "$name"', name=name)""",
                    )
                case str(), [ast.Name(id=target), *_] if called in _ACCESSORS:
                    self.uses.append(
                        AccessorUse(
                            file=self.file,
                            function_line=first_line,
                            accessor=called,
                            name=target,
                            line=node.lineno,
                            column=node.col_offset + 1,
                        )
                    )
                case str(), [ast.Constant(value=str(name)), *_] if (
                    called.startswith("secrets.") and called.removeprefix("secrets.") in _BY_NAME
                ):
                    self.secrets.append(SecretUse(name=name, source=self._at(node)))
                case _:
                    pass

    def _generator(self, generator: _Function) -> None:
        """E603: what a generator makes inside itself cannot travel (AU-44)."""
        inner = {
            node.name: node
            for node in ast.walk(generator)
            if isinstance(node, _Function) and node is not generator
        }
        for node in inner.values():
            if any(_called_name(entry) in _DEFINING for entry in node.decorator_list):
                self._closure(node, f"{node.name!r} is made inside a generator")
        for node in ast.walk(generator):
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                if keyword.arg == "steps" and isinstance(keyword.value, ast.List | ast.Tuple):
                    for entry in keyword.value.elts:
                        if isinstance(entry, ast.Lambda):
                            self._closure(entry, "a lambda is a step of a generated job")
                        elif isinstance(entry, ast.Name) and entry.id in inner:
                            self._closure(entry, f"step {entry.id!r} is made inside a generator")

    def _closure(self, node: ast.stmt | ast.expr, message: str) -> None:
        self._problem(
            "E603",
            f"{message}: generated jobs are data and cannot hold closures",
            "use a module-level @step, and .bind(...) what differs",
            node.lineno,
            node.col_offset + 1,
            "error",
        )

    def _at(self, node: ast.expr) -> SourceLocation:
        return SourceLocation(file=self.shown, line=node.lineno, column=node.col_offset + 1)

    def _warn(self, node: ast.stmt | ast.expr, code: str, message: str, help: str) -> None:
        self._problem(code, message, help, node.lineno, node.col_offset + 1, "warning")

    def _problem(self, code: str, message: str, help: str, line: int, column: int, severity: str) -> None:
        self.problems.append(
            Problem(
                code=code,
                message=message,
                help=help,
                source=SourceLocation(file=self.shown, line=line, column=column),
                severity="warning" if severity == "warning" else "error",
            )
        )


def _context_of(function: _Function) -> tuple[str, bool] | None:
    """The name of the first parameter when it is a context, by name or by annotation, and whether it blocks."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    if not parameters:
        return None
    first = parameters[0]
    match first.annotation:
        case ast.Name(id=kind) | ast.Attribute(attr=kind) | ast.Constant(value=str(kind)) if (
            kind in _CONTEXTS or kind in _BLOCKING
        ):
            return first.arg, kind in _BLOCKING
        case _:
            return (first.arg, False) if first.arg == "ctx" else None


def _called_name(node: ast.expr) -> str:
    """`job` of `job`, `job(...)` and `kici.job(...)`."""
    target = node.func if isinstance(node, ast.Call) else node
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _path_from(ctx: str, node: ast.expr) -> str:
    """`secrets.get` of `ctx.secrets.get`; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join(reversed(names)) if isinstance(node, ast.Name) and node.id == ctx else ""


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """Everything in the body, without functions that have a context of their own."""
    stack: list[ast.AST] = list(reversed(function.body))
    while stack:
        node = stack.pop()
        yield node
        stack.extend(
            child
            for child in reversed(list(ast.iter_child_nodes(node)))
            if not (isinstance(child, _Function) and _context_of(child) is not None)
        )


def _is_interpolated(script: ast.expr) -> bool:
    match script:
        case ast.JoinedStr(values=parts):
            return any(isinstance(part, ast.FormattedValue) for part in parts)
        case ast.BinOp(op=ast.Mod(), left=left):
            return _is_text(left)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            pair = (left, right)
            return any(_is_text(side) for side in pair) and not all(_is_constant(side) for side in pair)
        case ast.Call(func=ast.Attribute(value=template, attr="format")):
            return _is_text(template)
        case _:
            return False


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _is_text(left) or _is_text(right)
        case _:
            return False


def _is_constant(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _is_constant(left) and _is_constant(right)
        case _:
            return False
