"""Is a function pure, and what is it as data (AU-41)? Reads its source; never runs it.

Pure is one sync function that uses only its parameter, local assignments, literals, conditionals,
comparisons, boolean and arithmetic operators, f-strings, indexing and slicing, and the functions and text
methods of `kici.spec.expressions`. The source is found in the file by the line of the compiled code and, among
lambdas of one line, by what they compile to.
"""

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, NoReturn, cast

from msgspec import Struct

from kici.sdk.fields import BODY_MEMBERS, Fields
from kici.spec.expressions import FUNCTIONS, MAX_DEPTH, MAX_FORMAT_WIDTH, MAX_STEPS, METHODS

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_CO_NOT_PLAIN = 0x20 | 0x80 | 0x100 | 0x200  # generator, coroutine and what is both
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}
_OURS = os.path.dirname(os.path.abspath(__file__))


class Impure(Exception):
    """Why a function cannot be data; `line` is where, 0 when it is about the whole function."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class Unknown(Impure):
    """It reads what does not exist, wherever it runs; `help` is what to write instead."""

    def __init__(self, reason: str, help: str, line: int) -> None:
        super().__init__(reason, line)
        self.help = help


class Purity(Struct, frozen=True, kw_only=True):
    """`tree` when pure; otherwise `reason`, and `line` of the offending place. `help` only when no place can
    run it, because it reads an unknown field."""

    tree: Any = None
    reason: str = ""
    line: int = 0
    help: str = ""

    @property
    def pure(self) -> bool:
        return not self.reason


def examine(fn: object, parameter: Fields | None = None) -> Purity:
    """The expression tree of `fn`, or the first reason why there is none. Total. `parameter` is what is known
    of its parameter; None when anything may be read of it."""
    try:
        return Purity(tree=tree_of(fn, parameter))
    except Unknown as wrong:
        return Purity(reason=wrong.reason, line=wrong.line, help=wrong.help)
    except Impure as why:
        return Purity(reason=why.reason, line=why.line)
    except RecursionError:
        return Purity(reason="it is nested too deeply")


def tree_of(fn: object, parameter: Fields | None = None) -> Any:
    """Raises Impure."""
    code = getattr(fn, "__code__", None)
    if not isinstance(code, CodeType):
        raise Impure(f"a {type(fn).__name__} is no plain function")
    if code.co_flags & _CO_NOT_PLAIN:
        raise Impure("it is async or a generator")
    if hasattr(fn, "__wrapped__"):
        raise Impure("it is wrapped by a decorator")
    parameters = code.co_argcount + code.co_kwonlyargcount
    bound = getattr(fn, "__self__", None) is not None
    if parameters != 1 or code.co_flags & 0x0C or code.co_kwonlyargcount or bound:
        raise Impure("it does not take exactly one parameter")
    node = _node_of(code)
    reader = _Reader(
        code.co_varnames[0],
        frozenset(code.co_varnames[1:]),
        _constants(fn, code),
        shadowed=FUNCTIONS.intersection(getattr(fn, "__globals__", ())).union(code.co_freevars),
        fields=parameter,
    )
    tree = reader.value(node.body) if isinstance(node, ast.Lambda) else reader.body(node.body)
    if reader.nodes > MAX_STEPS // 2:
        raise Impure("it is too long")
    if _depth(tree) > MAX_DEPTH:
        raise Impure("it is nested too deeply")
    return tree


def _constants(fn: object, code: CodeType) -> Mapping[str, Any]:
    """What a closure of ours holds, as `only_on_fanout_index(2)` does. Authors' closures are not read: their
    values may differ where the function runs."""
    if not os.path.abspath(code.co_filename).startswith(_OURS + os.sep):
        return {}
    cells = cast("tuple[Any, ...]", getattr(fn, "__closure__", None) or ())
    held = {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=True)}
    return {name: value for name, value in held.items() if value is None or type(value) in {str, int, bool}}


def _node_of(code: CodeType) -> _Function:
    if code.co_filename.startswith("<"):
        raise Impure("its source is not in a file")
    file = _read(code.co_filename)
    candidates = file.functions.get(code.co_firstlineno, [])
    found: list[_Function] = [
        node for node in candidates if isinstance(node, ast.FunctionDef) and node.name == code.co_name
    ]
    if code.co_name == "<lambda>":
        lambdas = [node for node in candidates if isinstance(node, ast.Lambda)]
        # Of several on a line the one that compiles to the same: two that do are the same function.
        found = list(
            lambdas
            if len(lambdas) == 1
            else [node for node in lambdas if _compiles_to(node, file, code)][:1]
        )
    if len(found) != 1:
        raise Impure("its source cannot be found")
    return found[0]


class _File(Struct, frozen=True, kw_only=True):
    """Every function by the line that its code object begins with, decorators included. `imports` decide
    about details of the byte code of whatever calls what they bring."""

    functions: dict[int, list[Any]]
    imports: list[Any]


def _compiles_to(node: ast.Lambda, file: _File, code: CodeType) -> bool:
    module = ast.Module([*file.imports, ast.copy_location(ast.Expr(node), node)], [])
    compiled = compile(module, "<candidate>", "exec", dont_inherit=True)
    return any(isinstance(found, CodeType) and _same_code(found, code) for found in compiled.co_consts)


def _same_code(one: CodeType, other: CodeType) -> bool:
    """Equal wherever it stands: without file, lines and columns."""
    return (
        one.co_code == other.co_code
        and one.co_names == other.co_names
        and one.co_varnames == other.co_varnames
        and len(one.co_consts) == len(other.co_consts)
        and all(
            _same_code(left, right)
            if isinstance(left, CodeType) and isinstance(right, CodeType)
            else (type(left), repr(left)) == (type(right), repr(right))
            for left, right in zip(one.co_consts, other.co_consts, strict=True)
        )
    )


@lru_cache(maxsize=256)
def _read(file: str) -> _File:
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read(), filename=file)
    except (OSError, SyntaxError, ValueError) as wrong:
        raise Impure("its source is not readable") from wrong
    found: dict[int, list[Any]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            found.setdefault(node.lineno, []).append(node)
        elif isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.setdefault(first, []).append(node)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return _File(functions=found, imports=imports)


def _depth(tree: Any) -> int:
    deepest, pending = 0, [(tree, 1)]
    while pending:
        node, depth = pending.pop()
        deepest = max(deepest, depth)
        if isinstance(node, list):
            pending.extend((child, depth + 1) for child in cast("list[Any]", node))
    return deepest


def _no(node: ast.AST, reason: str) -> NoReturn:
    raise Impure(reason, getattr(node, "lineno", 0))


class _Reader:
    """Turns the nodes of one function into a tree."""

    def __init__(
        self,
        parameter: str,
        names: frozenset[str],
        constants: Mapping[str, Any],
        *,
        shadowed: frozenset[str],
        fields: Fields | None,
    ) -> None:
        self._functions = FUNCTIONS - names - shadowed
        self._parameter = parameter
        self._names = names
        self._constants = constants
        self._fields = fields
        self.nodes = 0

    def body(self, statements: Sequence[ast.stmt]) -> Any:
        rest = list(statements)
        if rest and isinstance(rest[0], ast.Expr) and isinstance(rest[0].value, ast.Constant):
            rest.pop(0)  # the docstring
        if len(rest) == 1 and isinstance(rest[0], ast.Return):
            return self._returned(rest[0])
        return ["do", *self._statements(rest)]

    def _statements(self, statements: Sequence[ast.stmt]) -> Iterator[Any]:
        for node in statements:
            self.nodes += 1
            match node:
                case ast.Return():
                    yield ["return", self._returned(node)]
                case ast.If():
                    yield [
                        "when",
                        self.value(node.test),
                        list(self._statements(node.body)),
                        list(self._statements(node.orelse)),
                    ]
                case ast.Assign(targets=targets):
                    if len(targets) != 1 or not isinstance(targets[0], ast.Name):
                        _no(node, "it assigns to more than one plain name")
                    yield self._set(targets[0], self.value(node.value))
                case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
                    yield self._set(target, self.value(value))
                case ast.AugAssign(target=ast.Name() as target, op=op):
                    operator = _BINARY.get(type(op))
                    if operator is None:
                        _no(node, "it uses a bit operator")
                    right = self.value(node.value)
                    yield self._set(target, ["binary", operator, self.value(_loaded(target)), right])
                case ast.Pass():
                    pass
                case ast.Match():
                    _no(node, "it uses `match`")
                case _:
                    _no(node, f"it uses a statement of kind {_word(node)}")

    def _returned(self, node: ast.Return) -> Any:
        return None if node.value is None else self.value(node.value)

    def _set(self, target: ast.Name, value: Any) -> list[Any]:
        if target.id == self._parameter:
            _no(target, "it assigns to its parameter")
        if target.id not in self._names:
            _no(target, f"{target.id!r} is not local")
        return ["set", target.id, value]

    def value(self, node: ast.expr) -> Any:
        self.nodes += 1
        match node:
            case ast.Constant(value=value):
                return self._constant(node, value)
            case ast.Name():
                return self._name(node)
            case ast.Attribute(value=target, attr=name):
                self._readable(node, target, name)
                return ["attr", self.value(target), name]
            case ast.Subscript(value=target, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                parts = [None if part is None else self.value(part) for part in (lower, upper, step)]
                return ["slice", self.value(target), *parts]
            case ast.Subscript(value=target, slice=index):
                self._subscriptable(node, target)
                return ["index", self.value(target), self.value(index)]
            case ast.List(elts=entries):
                return ["list", *self._values(entries)]
            case ast.Tuple(elts=entries):
                return ["tuple", *self._values(entries)]
            case ast.Dict(keys=keys, values=values):
                return ["dict", *self._pairs(node, keys, values)]
            case ast.BoolOp(op=op, values=values):
                return ["and" if isinstance(op, ast.And) else "or", *self._values(values)]
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ["not", self.value(operand)]
            case ast.UnaryOp(op=(ast.USub() | ast.UAdd()) as op, operand=operand):
                return ["unary", "-" if isinstance(op, ast.USub) else "+", self.value(operand)]
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(node, left, op, right)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return ["if", self.value(test), self.value(body), self.value(orelse)]
            case ast.Compare():
                return self._comparison(node)
            case ast.JoinedStr(values=parts):
                return ["text", *self._parts(parts)]
            case ast.Call():
                return self._call(node)
            case _:
                _no(node, f"it uses {_word(node)}")

    def _readable(self, node: ast.expr, target: ast.expr, name: str) -> None:
        """Refuses what Python would refuse, and what it would read differently from the evaluator."""
        if name.startswith("_"):
            _no(node, f"it reads the private attribute {name!r}")
        fields = self._fields_of(target)
        if fields is None:
            if name in BODY_MEMBERS:
                _no(node, f"it reads {name!r}, which bodies of events have themselves")
        elif name not in fields.known:
            if name in fields.members:
                _no(node, f"it reads {ast.unparse(node)[:60]}")
            raise Unknown(f"{fields.what} has no {name!r}", fields.help(name), node.lineno)

    def _subscriptable(self, node: ast.expr, target: ast.expr) -> None:
        fields = self._fields_of(target)
        if fields is not None and not fields.is_mapping:
            raise Unknown(
                f"{fields.what} is no mapping", "it has attributes: write .name, not ['name']", node.lineno
            )

    def _fields_of(self, node: ast.expr) -> Fields | None:
        """What is known of a chain of attributes that starts at the parameter."""
        match node:
            case ast.Name(id=name) if name == self._parameter:
                return self._fields
            case ast.Attribute(value=target, attr=name):
                fields = self._fields_of(target)
                return None if fields is None else fields.known.get(name)
            case _:
                return None

    def _values(self, nodes: Sequence[ast.expr]) -> Iterator[Any]:
        return (self.value(node) for node in nodes)

    def _constant(self, node: ast.Constant, value: object) -> Any:
        if value is None or isinstance(value, str | bool):
            return value
        if isinstance(value, int) and value.bit_length() <= 53:
            return value
        if isinstance(value, float) and value - value == 0:
            return value
        _no(node, f"it holds the literal {ast.unparse(node)[:40]}")

    def _name(self, node: ast.Name) -> Any:
        if node.id == self._parameter:
            return ["arg"]
        if node.id in self._names:
            return ["var", node.id]
        if node.id in self._constants:
            return self._constants[node.id]
        _no(node, f"it uses {node.id!r}, which is not its parameter")

    def _pairs(
        self, node: ast.Dict, keys: Sequence[ast.expr | None], values: Sequence[ast.expr]
    ) -> Iterator[Any]:
        for key, value in zip(keys, values, strict=True):
            if key is None:
                _no(node, "it unpacks a mapping")
            yield [self.value(key), self.value(value)]

    def _binary(self, node: ast.expr, left: ast.expr, op: ast.operator, right: ast.expr) -> Any:
        operator = _BINARY.get(type(op))
        if operator is None:
            _no(node, "it uses a bit operator")
        if operator == "%" and (
            isinstance(left, ast.JoinedStr)
            or (isinstance(left, ast.Constant) and isinstance(left.value, str))
        ):
            _no(node, "it formats text with %, write an f-string")
        return ["binary", operator, self.value(left), self.value(right)]

    def _comparison(self, node: ast.Compare) -> Any:
        tree: list[Any] = ["compare", self.value(node.left)]
        for op, right in zip(node.ops, node.comparators, strict=True):
            name = _COMPARE[type(op)]
            if name.startswith("is") and not (
                isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))
            ):
                _no(node, "it compares identities")
            if name in {"in", "not in"} and isinstance(right, ast.Set):
                tree += [name, ["tuple", *self._values(right.elts)]]
            else:
                tree += [name, self.value(right)]
        return tree

    def _parts(self, parts: Sequence[ast.expr]) -> list[Any]:
        """Neighbouring texts as one: versions of Python differ in how they cut f-strings."""
        joined: list[Any] = []
        for part in parts:
            value = self._part(part)
            if isinstance(value, str) and joined and isinstance(joined[-1], str):
                joined[-1] += value
            elif value != "":
                joined.append(value)
        return joined

    def _part(self, part: ast.expr) -> Any:
        if not isinstance(part, ast.FormattedValue):
            return self.value(part)
        spec = ""
        if part.format_spec is not None:
            pieces = cast("ast.JoinedStr", part.format_spec).values
            if not all(isinstance(piece, ast.Constant) for piece in pieces):
                _no(part, "it computes a format")
            spec = "".join(str(cast("ast.Constant", piece).value) for piece in pieces)
            if any(len(width) > 4 or int(width) > MAX_FORMAT_WIDTH for width in re.findall(r"\d+", spec)):
                _no(part, f"its format is wider than {MAX_FORMAT_WIDTH}")
        conversion = chr(part.conversion) if part.conversion > 0 else ""
        return ["format", self.value(part.value), conversion, spec]

    def _call(self, node: ast.Call) -> Any:
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            _no(node, "it calls with keywords or *")
        match node.func:
            case ast.Name(id=name) if name in self._functions:
                return ["call", name, *self._values(node.args)]
            case ast.Attribute(value=target, attr=name) if name in METHODS:
                fields = self._fields_of(target)
                if fields is not None and name not in fields.members:
                    raise Unknown(f"{fields.what} has no method {name!r}", fields.help(name), node.lineno)
                return ["method", name, self.value(target), *self._values(node.args)]
            case called:
                _no(node, f"it calls {ast.unparse(called)[:60]}")


def _loaded(target: ast.Name) -> ast.Name:
    return ast.copy_location(ast.Name(id=target.id, ctx=ast.Load()), target)


def _word(node: ast.AST) -> str:
    """`ListComp` → `list comp`: close enough to what Python's own reference says."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).lower()
