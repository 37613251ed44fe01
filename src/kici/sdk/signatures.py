"""Can a step be called with what its job supplies, and can its result travel as JSON?"""

import re
from collections.abc import Collection
from typing import Any

import msgspec

from kici.sdk.definitions import Step, return_annotation
from kici.sdk.problems import nearest, report

_VARIABLE_POSITIONAL = 0x04  # inspect.CO_VARARGS
_VARIABLE_KEYWORDS = 0x08  # inspect.CO_VARKEYWORDS
_UNKNOWN_TYPE = re.compile(r"[Tt]ype (?:<class )?'([^']+)'>? is not supported")
_PLAIN = frozenset({str, int, float, bool, list, dict, Any})


def check_parameters(step: Step[Any], matrix_keys: Collection[str] | None, job_name: str) -> None:
    """E118: a parameter that nobody supplies, or a bound one that the function lacks (AU-15).

    `matrix_keys` None: they are known at run time only. A step with `check` also takes the drift.
    """
    fn = step.fn
    code = getattr(fn, "__code__", None)
    if code is None or code.co_flags & _VARIABLE_POSITIONAL:
        return  # functools.partial and wrappers: only the call can tell
    positional = list(code.co_varnames[: code.co_argcount])
    if getattr(fn, "__self__", None) is not None:
        positional = positional[1:]
    where = f"job {job_name!r}: step {step.name!r}"
    if not positional:
        report(
            "E118", f"{where} does not take ctx", "write `async def f(ctx: Context)`", source=step.source
        )
        return
    if step.settings.check is not None:
        positional = positional[1:]  # (ctx, drift, ...)
    only_keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    accepted = [*positional[1:], *only_keyword]
    with_default = {*positional[len(positional) - len(getattr(fn, "__defaults__", None) or ()) :]}
    with_default |= {*(getattr(fn, "__kwdefaults__", None) or {})}
    for name in accepted:
        if matrix_keys is not None and not {name} & {*with_default, *step.params, *matrix_keys}:
            report(
                "E118",
                f"{where} has a parameter {name!r} that nobody supplies",
                f"give it a default, bind it (.bind({name}=...)), or name a matrix dimension {name!r}",
                source=step.source,
            )
    if not code.co_flags & _VARIABLE_KEYWORDS:
        for name in step.params:
            if name not in accepted:
                guess = nearest(name, accepted)
                report(
                    "E118",
                    f"{where} has no parameter {name!r}, which .bind() sets",
                    f"did you mean {guess!r}?" if guess else f"parameters: {', '.join(accepted) or 'none'}",
                    source=step.source,
                )


def has_outputs(step: Step[Any], job_name: str) -> bool:
    """Whether the step declares a result; E601 when that cannot be JSON."""
    where = f"job {job_name!r}: step {step.name!r}"
    try:
        annotation = return_annotation(step.fn)
    except Exception as error:
        report(
            "E601",
            f"{where} returns a type that cannot be resolved: {error}",
            "import the type at run time, outside `if TYPE_CHECKING`",
            source=step.source,
        )
        return False
    if annotation is None:
        return False
    if not (isinstance(annotation, type) and annotation in _PLAIN):
        try:
            msgspec.json.Decoder(annotation)
            msgspec.json.schema(annotation)  # refuses types that JSON knows nothing of
        except Exception as error:
            report(
                "E601",
                f"{where} returns {_shown(annotation)}, which cannot travel as JSON: {_because(error)}",
                "return text, numbers, lists, mappings, dataclasses, TypedDicts or msgspec Structs",
                source=step.source,
            )
            return False
    return True


def _shown(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _because(error: Exception) -> str:
    """Of msgspec's words those that are about the annotation; the rest is advice to whoever extends it."""
    found = _UNKNOWN_TYPE.search(str(error))
    if found is None:
        return str(error).partition("\n")[0]
    return f"{found[1].removeprefix('<built-in function ').rstrip('>').rpartition('.')[2]} is no type that JSON knows"
