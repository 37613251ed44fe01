"""Pure functions of authors, evaluated (AU-41): a total interpreter of `kici.spec.expressions`. No source
text, no eval.

What Python would raise is an ExpressionError here. So is more than MAX_STEPS steps, a text or list longer than
MAX_SIZE, an integer beyond MAX_BITS, and anything that is no tree. Narrower than Python: only scalars become
text, are ordered, or are keys.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

from kici.spec.errors import InvalidInput
from kici.spec.expressions import MAX_DEPTH, MAX_FORMAT_WIDTH, MAX_STEPS, METHODS

MAX_SIZE = 1 << 20
MAX_BITS = 4_096

_Operation = Callable[[Any, Any], Any]
_Locals = dict[str, Any]

_ARITHMETIC: dict[str, _Operation] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_ORDER: dict[str, _Operation] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONVERSIONS: dict[str, Callable[[Any], str]] = {"": lambda value: value, "s": str, "r": repr, "a": ascii}
_PADDING = frozenset({"zfill", "ljust", "rjust", "center"})
_NOTHING = object()


class Fields:
    """An object of the SDK's, as data: `values` are its attributes, and any other one is an error. It is no
    mapping."""

    __slots__ = ("values",)

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.values == other.values

    def __hash__(self) -> int:
        return hash(frozenset(self.values))


class Keys(dict[str, Any]):
    """A mapping whose keys are no attributes. A plain one is a body, or an object in it: there absent
    attributes are None."""


class ExpressionError(InvalidInput):
    """A pure function of the author's cannot be evaluated; the message says where it failed and why."""

    code: ClassVar[str] = "expression_failed"


def evaluate(tree: object, argument: Fields | Mapping[str, Any]) -> Any:
    """The value of the function that `tree` stands for, called with `argument`. Raises only ExpressionError."""
    try:
        evaluation = _Evaluation(argument)
        return evaluation.plain(evaluation.value(tree, {}, 0))
    except ExpressionError:
        raise
    except RecursionError:
        raise ExpressionError("the values are nested too deeply") from None
    except KeyError as wrong:
        raise ExpressionError(f"there is no key {_short(repr(wrong.args[0]))}") from None
    except Exception as wrong:
        raise ExpressionError(f"{type(wrong).__name__}: {_short(wrong)}") from None


class _Evaluation:
    """One call: counts its steps. Operators are methods named after them."""

    def __init__(self, argument: Fields | Mapping[str, Any]) -> None:
        self._argument = argument
        self._steps = 0

    def value(self, tree: object, names: _Locals, depth: int) -> Any:
        self._charge(1)
        if tree is None or isinstance(tree, str | int | float):
            return tree
        if depth > MAX_DEPTH:
            raise ExpressionError(f"the function is nested deeper than {MAX_DEPTH} levels")
        if isinstance(tree, list) and tree and isinstance(tree[0], str):
            operation = _OPERATIONS.get(tree[0])
            if operation is not None:
                return operation(self, cast("list[Any]", tree)[1:], names, depth + 1)
        raise _no_tree(tree)

    def _charge(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise ExpressionError(f"the function took more than {MAX_STEPS} steps")

    def _bounded(self, value: Any) -> Any:
        """Every value that was made here passes through; long ones cost more."""
        if isinstance(value, str | list | tuple):
            size = len(cast("Sequence[Any]", value))
            if size > MAX_SIZE:
                raise ExpressionError(f"a value grew beyond {MAX_SIZE} characters or entries")
            self._charge(size >> 10)
        elif isinstance(value, int):
            _bits(value.bit_length())
        elif isinstance(value, complex):
            raise ExpressionError("the result is no real number")
        return value

    def plain(self, value: Any) -> Any:
        """JSON without shared parts: tuples become lists. Costs a step per entry."""
        match value:
            case Fields():
                return self.plain(value.values)
            case dict():
                entries = cast("dict[Any, Any]", value)
                self._charge(len(entries))
                return {key: self.plain(entry) for key, entry in entries.items()}
            case list() | tuple():
                members = cast("Sequence[Any]", value)
                self._charge(len(members))
                return [self.plain(entry) for entry in members]
            case _:
                return value

    def _equal(self, left: Any, right: Any) -> bool:
        """`==` that pays for what it walks: shared parts could make it take for ever."""
        if left is right and isinstance(left, list | tuple | dict):
            return True
        match left, right:
            case (dict(), dict()):
                one, other = cast("dict[Any, Any]", left), cast("dict[Any, Any]", right)
                self._charge(len(one))
                return one.keys() == other.keys() and all(
                    self._same(value, other[key]) for key, value in one.items()
                )
            case (list(), list()) | (tuple(), tuple()):
                ours, theirs = cast("Sequence[Any]", left), cast("Sequence[Any]", right)
                self._charge(min(len(ours), len(theirs)))
                return len(ours) == len(theirs) and all(map(self._same, ours, theirs))
            case _:
                if isinstance(left, str):
                    self._charge(len(left) >> 10)
                return left == right

    def _same(self, left: Any, right: Any) -> bool:
        return left is right or self._equal(left, right)

    def _contains(self, container: Any, member: Any) -> bool:
        if isinstance(container, list | tuple):
            members = cast("Sequence[Any]", container)
            self._charge(len(members) >> 4)
            return any(self._same(member, entry) for entry in members)
        if isinstance(container, str):
            self._charge(len(container) >> 10)
            return member in container
        return _key(member) in container

    def _all(self, trees: Sequence[Any], names: _Locals, depth: int) -> list[Any]:
        return [self.value(tree, names, depth) for tree in trees]

    def op_arg(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        return self._argument

    def op_var(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        (name,) = rest
        if name not in names:
            raise ExpressionError(f"variable {name!r} has no value yet")
        return names[name]

    def op_attr(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        target, name = rest
        found = self.value(target, names, depth)
        if isinstance(found, Fields) and name in found.values:
            return found.values[name]
        if not isinstance(found, Mapping) or isinstance(found, Keys):
            raise ExpressionError(f"{_kind(found)} has no attribute {name!r}")
        return cast("Mapping[str, Any]", found).get(name)

    def op_index(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        found, key = self._all(rest, names, depth)
        return found[_key(key)]

    def op_slice(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        found, start, end, step = self._all(rest, names, depth)
        if not isinstance(found, str | list | tuple):
            raise ExpressionError(f"{_kind(found)} cannot be sliced")
        return self._bounded(found[start:end:step])

    def op_list(self, rest: list[Any], names: _Locals, depth: int) -> list[Any]:
        return self._all(rest, names, depth)

    def op_tuple(self, rest: list[Any], names: _Locals, depth: int) -> tuple[Any, ...]:
        return tuple(self._all(rest, names, depth))

    def op_dict(self, rest: list[Any], names: _Locals, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = Keys()
        for key, value in rest:
            name = self.value(key, names, depth)
            made[_key(name)] = self.value(value, names, depth)
        return made

    def op_and(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        found: Any = True
        for tree in rest:
            found = self.value(tree, names, depth)
            if not found:
                break
        return found

    def op_or(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        found: Any = False
        for tree in rest:
            found = self.value(tree, names, depth)
            if found:
                break
        return found

    def op_not(self, rest: list[Any], names: _Locals, depth: int) -> bool:
        (tree,) = rest
        return not self.value(tree, names, depth)

    def op_if(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        test, then, otherwise = rest
        return self.value(then if self.value(test, names, depth) else otherwise, names, depth)

    def op_compare(self, rest: list[Any], names: _Locals, depth: int) -> bool:
        left = self.value(rest[0], names, depth)
        result = True
        for name, tree in zip(rest[1::2], rest[2::2], strict=True):
            right = self.value(tree, names, depth)
            match name:
                case "==" | "!=":
                    result = self._equal(left, right) is (name == "==")
                case "in" | "not in":
                    result = self._contains(right, left) is (name == "in")
                case "is" | "is not":
                    result = (left is right) is (name == "is")
                case _:
                    result = _ORDER[name](_scalar(left), _scalar(right))
            if not result:
                break
            left = right
        return result

    def op_binary(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        name, *sides = rest
        left, right = self._all(sides, names, depth)
        match name:
            case "%" if isinstance(left, str):
                raise ExpressionError("text cannot be formatted with %")
            case "**":
                _power_is_small(left, right)
            case "*":
                _product_is_small(left, right)
            case _:
                pass
        return self._bounded(_ARITHMETIC[name](left, right))

    def op_unary(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        name, tree = rest
        found = self.value(tree, names, depth)
        return -found if name == "-" else +found

    def op_text(self, rest: list[Any], names: _Locals, depth: int) -> str:
        parts = self._all(rest, names, depth)
        _joined_is_small("", parts)
        return self._bounded("".join(parts))

    def op_format(self, rest: list[Any], names: _Locals, depth: int) -> str:
        tree, conversion, spec = rest
        found = _scalar(self.value(tree, names, depth))
        _width_is_small(spec)
        return self._bounded(format(_CONVERSIONS[conversion](found), spec))

    def op_call(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        name, *trees = rest
        arguments = self._all(trees, names, depth)
        match name, arguments:
            case "str", _:
                return self._bounded(str(*map(_scalar, arguments)))
            case "int", _:
                return self._bounded(int(*arguments))
            case "float", _:
                return float(*arguments)
            case "bool", _:
                return bool(*arguments)
            case "len", [found]:
                return len(found)
            case (("min" | "max"), _):
                entries = cast("list[Any]", arguments[0] if len(arguments) == 1 else arguments)
                self._charge(len(entries))
                return (min if name == "min" else max)(list(map(_scalar, entries)))
            case _:
                raise _no_tree(["call", name])

    def op_method(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        name, target, *trees = rest
        found = self.value(target, names, depth)
        arguments = self._all(trees, names, depth)
        for walked in (found, *arguments):  # however short the answer
            if isinstance(walked, str | list | tuple):
                self._charge(len(cast("Sequence[Any]", walked)) >> 8)
        if name == "get" and isinstance(found, Mapping):
            key, *default = arguments
            return cast("Mapping[Any, Any]", found).get(_key(key), *default)
        if not isinstance(found, str) or name not in METHODS or name == "get":
            raise ExpressionError(f"{_kind(found)} has no method {name!r} here")
        if name == "replace":
            _replacement_is_small(found, arguments)
        elif name in _PADDING and arguments and isinstance(arguments[0], int) and arguments[0] > MAX_SIZE:
            raise ExpressionError(f"a value grew beyond {MAX_SIZE} characters or entries")
        elif name == "join" and arguments:
            _joined_is_small(found, cast("Sequence[Any]", arguments[0]))
        return self._bounded(getattr(found, name)(*arguments))

    def op_do(self, rest: list[Any], names: _Locals, depth: int) -> Any:
        result = self._run(rest, names, depth)
        return None if result is _NOTHING else result

    def _run(self, statements: Sequence[Any], names: _Locals, depth: int) -> Any:
        """What a `return` gave, else _NOTHING."""
        if depth > MAX_DEPTH:
            raise ExpressionError(f"the function is nested deeper than {MAX_DEPTH} levels")
        for statement in statements:
            match statement:
                case ["set", str() as name, tree]:
                    names[name] = self.value(tree, names, depth + 1)
                case ["return", tree]:
                    return self.value(tree, names, depth + 1)
                case ["when", test, list() as then, list() as otherwise]:
                    chosen = then if self.value(test, names, depth + 1) else otherwise
                    result = self._run(cast("list[Any]", chosen), names, depth + 1)
                    if result is not _NOTHING:
                        return result
                case _:
                    raise _no_tree(statement)
        return _NOTHING


_OPERATIONS: dict[str, Callable[[_Evaluation, list[Any], _Locals, int], Any]] = {
    "arg": _Evaluation.op_arg,
    "var": _Evaluation.op_var,
    "attr": _Evaluation.op_attr,
    "index": _Evaluation.op_index,
    "slice": _Evaluation.op_slice,
    "list": _Evaluation.op_list,
    "tuple": _Evaluation.op_tuple,
    "dict": _Evaluation.op_dict,
    "and": _Evaluation.op_and,
    "or": _Evaluation.op_or,
    "not": _Evaluation.op_not,
    "if": _Evaluation.op_if,
    "compare": _Evaluation.op_compare,
    "binary": _Evaluation.op_binary,
    "unary": _Evaluation.op_unary,
    "text": _Evaluation.op_text,
    "format": _Evaluation.op_format,
    "call": _Evaluation.op_call,
    "method": _Evaluation.op_method,
    "do": _Evaluation.op_do,
}


def _no_tree(tree: object) -> ExpressionError:
    return ExpressionError(f"this is no expression tree: {_short(tree)}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _kind(value: object) -> str:
    match value:
        case None:
            return "None"
        case Fields():
            return "the event" if "type" in value.values else "the context"
        case Keys():
            return "a mapping"
        case _:
            return type(value).__name__


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    raise ExpressionError(f"a {_kind(value)} stands where text or a number is wanted")


def _key(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    raise ExpressionError(f"a {_kind(value)} is no key")


def _bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise ExpressionError(f"a number grew beyond {MAX_BITS} bits")


def _power_is_small(base: object, exponent: object) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0 and abs(base) > 1:
        _bits(base.bit_length() * exponent)


def _product_is_small(left: object, right: object) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int):
            size = len(cast("Sequence[Any]", many))
            if size * max(times, 0) > MAX_SIZE:
                raise ExpressionError(f"a value grew beyond {MAX_SIZE} characters or entries")


def _joined_is_small(between: str, parts: Sequence[Any]) -> None:
    if sum(map(len, parts)) + len(between) * len(parts) > MAX_SIZE:
        raise ExpressionError(f"a value grew beyond {MAX_SIZE} characters or entries")


def _replacement_is_small(text: str, arguments: Sequence[Any]) -> None:
    match arguments:
        case [str() as old, str() as new, *_]:
            times = text.count(old)
            if len(text) + times * max(len(new) - len(old), 0) > MAX_SIZE:
                raise ExpressionError(f"a value grew beyond {MAX_SIZE} characters or entries")
        case _:
            pass


def _width_is_small(spec: str) -> None:
    """`{x:>9999999999}` would make a text of that length."""
    if any(len(number) > 4 or int(number) > MAX_FORMAT_WIDTH for number in re.findall(r"\d+", spec)):
        raise ExpressionError(f"a format is wider than {MAX_FORMAT_WIDTH}")
