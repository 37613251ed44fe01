"""Methods of the fakes whose calls a step must await, as it must those of the real `ctx` (AU-14)."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from kici.sdk.calls import TrackedCall, tracked

P = ParamSpec("P")
T = TypeVar("T")


def awaited(
    name: str,
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, TrackedCall[T]]]:
    """`name` is what authors write: `ctx.sh`."""

    def decorate(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, TrackedCall[T]]:
        @wraps(method)
        def call(*arguments: P.args, **named: P.kwargs) -> TrackedCall[T]:
            _self, *shown = arguments
            words = [*map(repr, shown), *(f"{key}={value!r}" for key, value in named.items())]
            return tracked(method(*arguments, **named), f"{name}({', '.join(words)})")

        return call

    return decorate
