"""What a workflow file shows without being run: syntax, forgotten awaits, interpolated shell scripts."""

import ast
from collections.abc import Iterator

from kici.compiler.exchange import AccessorUse
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation

_AWAITED = frozenset({"sh", "run"})
_ACCESSORS = frozenset({"job_outputs", "matrix_outputs", "need"})
_CONTEXTS = frozenset({"Context", "HookContext"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class FileReading:
    """Problems and accessor uses of one file. `shown` is its path as people know it, `file` absolute."""

    def __init__(self, file: str, shown: str, content: bytes) -> None:
        self.file = file
        self.shown = shown
        self.problems: list[Problem] = []
        self.uses: list[AccessorUse] = []
        try:
            tree = ast.parse(content, filename=file)
        except SyntaxError as error:
            self._problem(
                "E002", f"syntax error: {error.msg}", "", error.lineno or 1, error.offset or 1, "error"
            )
        except ValueError as error:  # a NUL byte
            self._problem("E002", f"syntax error: {error}", "", 1, 1, "error")
        else:
            for node in ast.walk(tree):
                if isinstance(node, _Function) and (ctx := _context_name(node)) is not None:
                    self._function(node, ctx)

    def _function(self, function: _Function, ctx: str) -> None:
        first_line = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        for node in _own_nodes(function):
            match node:
                case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=called))) if (
                    name == ctx and called in _AWAITED
                ):
                    self._warn(
                        node,
                        "W602",
                        f"{ctx}.{called}(...) is not awaited: nothing runs",
                        f"write `await {ctx}.{called}(...)`",
                    )
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=name), attr="sh"), args=[script, *_]
                ) if name == ctx and _is_interpolated(script):
                    self._warn(
                        script,
                        "W601",
                        "the script is put together from values, which the shell will read as code",
                        """pass values as keywords: ctx.sh('echo "$name"', name=name)""",
                    )
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=name), attr=accessor),
                    args=[ast.Name(id=target), *_],
                ) if name == ctx and accessor in _ACCESSORS:
                    self.uses.append(
                        AccessorUse(
                            file=self.file,
                            function_line=first_line,
                            accessor=accessor,
                            name=target,
                            line=node.lineno,
                            column=node.col_offset + 1,
                        )
                    )
                case _:
                    pass

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


def _context_name(function: _Function) -> str | None:
    """The name of the first parameter when it is a context, by name or by annotation."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    if not parameters:
        return None
    first = parameters[0]
    match first.annotation:
        case ast.Name(id=kind) | ast.Attribute(attr=kind) | ast.Constant(value=str(kind)) if (
            kind in _CONTEXTS
        ):
            return first.arg
        case _:
            return first.arg if first.arg == "ctx" else None


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """Everything in the body, without functions that have a context of their own."""
    stack: list[ast.AST] = list(reversed(function.body))
    while stack:
        node = stack.pop()
        yield node
        stack.extend(
            child
            for child in reversed(list(ast.iter_child_nodes(node)))
            if not (isinstance(child, _Function) and _context_name(child) is not None)
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
