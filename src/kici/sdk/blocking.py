"""`SyncContext` come alive: any context with its coroutines waited for, for steps written as `def` (AU-13)."""

from collections.abc import Callable, Coroutine
from typing import Any, cast

from kici.sdk.sync_context import SyncContext

# Parts of ctx that have coroutine methods of their own, by attribute.
_PARTS = frozenset({"secrets", "cache", "kici", "inventory", "infrastructure", "oidc", "host"})


def wants_blocking(fn: object) -> bool:
    """Whether the function's first parameter is annotated `SyncContext`."""
    fn = getattr(fn, "func", fn)  # functools.partial
    code = getattr(fn, "__code__", None)
    if code is None or not code.co_argcount:
        return False
    first = code.co_varnames[1 if getattr(fn, "__self__", None) is not None else 0]
    annotation = getattr(fn, "__annotations__", {}).get(first)
    return annotation is SyncContext or (
        isinstance(annotation, str) and annotation.rpartition(".")[2] == SyncContext.__name__
    )


def blocking(ctx: object, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> SyncContext:
    """`wait` gets each coroutine on the thread of the step and returns what it came to."""
    return cast("SyncContext", _Blocking(ctx, wait))


class _Blocking:
    def __init__(self, inner: object, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._inner = inner
        self._wait = wait

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name in _PARTS and not callable(value):
            # `kici.host` has coroutines, `ctx.host` is facts: a Struct has none.
            return (
                value
                if hasattr(value, "__struct_fields__") or value is None
                else _Blocking(value, self._wait)
            )
        if not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            result = value(*arguments, **named)
            return (
                self._wait(cast("Coroutine[Any, Any, Any]", result))
                if isinstance(result, Coroutine)
                else result
            )

        return call
