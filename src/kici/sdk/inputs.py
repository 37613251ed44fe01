"""Typed inputs of dispatches and schedules, and typed payloads of custom events (AU-83, AU-86).

`fields_of` says what the lock file holds of a class; the orchestrator coerces, checks and defaults by that.
`decode` makes an object of what came through.
"""

import math
from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import NODEFAULT, Struct, structs

from kici.sdk.errors import EventRejectedError
from kici.sdk.problems import report
from kici.sdk.source import SourceLocation, caller
from kici.spec import triggers
from kici.spec.errors import InvalidInput

T = TypeVar("T")
FieldType = Literal["string", "integer", "number", "boolean"]

_PLAIN: dict[Any, FieldType] = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Meta(Struct, frozen=True, kw_only=True):
    """Limits and description of one input. `ge`, `le` for numbers, lengths and `pattern` (RE2) for text.

    >>> class Scale(Inputs):
    ...     replicas: Annotated[int, Meta(ge=1, le=10, description="how many")] = 2
    """

    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    description: str = ""


if TYPE_CHECKING:
    # As type checkers should see it; mypy does not apply a transform to classes that msgspec's covers already.

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class _FieldsMeta(type): ...

    class _Fields(metaclass=_FieldsMeta): ...
else:

    class _FieldsMeta(msgspec.StructMeta):
        """Makes every class frozen and keyword-only, however far from its base; notes where it stands."""

        def __new__(
            cls,
            name: str,
            bases: tuple[type, ...],
            namespace: dict[str, Any],
            /,
            *,
            event: str = "",
            **options: Any,
        ) -> Any:
            made = super().__new__(cls, name, bases, namespace, frozen=True, kw_only=True, **options)
            type.__setattr__(made, "__kici_source__", caller())
            type.__setattr__(made, "__kici_event__", event)
            return made

    class _Fields(Struct, metaclass=_FieldsMeta): ...


class Inputs(_Fields):
    """Base of typed inputs: text, numbers, booleans, `Literal` or an Enum, each optional or not.

    >>> class DeployInputs(Inputs):
    ...     target: str | None = None
    ...     mode: Literal["full", "edge-only"] = "full"
    ...     retries: Annotated[int, Meta(ge=0, le=10)] = 3
    >>> deploys = dispatch(types="deploy", inputs=DeployInputs)
    """

    __kici_source__: ClassVar[SourceLocation]


class EventPayload(_Fields):
    """Base of custom events: the fields of its payload, and the event's name.

    >>> class DeployComplete(EventPayload, event="deploy-complete"):
    ...     env: str
    >>> after_prod = kici_event(DeployComplete, match={"$.env": "prod"})
    """

    __kici_event__: ClassVar[str]
    __kici_source__: ClassVar[SourceLocation]

    if TYPE_CHECKING:

        def __init_subclass__(cls, *, event: str) -> None: ...


def event_name(payload: object) -> str:
    """The event of an EventPayload or its class; empty for anything else."""
    kind: Any = payload if isinstance(payload, type) else type(payload)
    return kind.__kici_event__ if issubclass(kind, EventPayload) else ""


def emitted_name(event: object) -> str:
    """Of what a step emits: a name, or an EventPayload that has one."""
    name = event if isinstance(event, str) else event_name(event)
    if name.strip():
        return name
    if isinstance(event, str | EventPayload):
        raise EventRejectedError(
            "an event needs a name: ctx.emit('done'), or class Done(EventPayload, event='done')"
        )
    raise TypeError(f"an event is a name or an EventPayload, not {type(event).__name__}")


def fields_of(inputs: type[Inputs]) -> list[triggers.InputField]:
    """What the lock file says about the class; E403 for every type that is no input."""
    try:
        hints = get_type_hints(inputs, include_extras=True)
    except Exception as error:
        report(
            "E403",
            f"inputs {inputs.__name__!r}: a type cannot be resolved: {error}",
            "import the type at run time, outside `if TYPE_CHECKING`",
            source=inputs.__kici_source__,
        )
        return []
    found: list[triggers.InputField] = []
    for field in _struct_fields(inputs):
        made = _field(inputs, field, hints.get(field.name, field.type))
        if made is not None:
            found.append(made)
    return found


def decode(inputs: type[T], values: Mapping[str, Any]) -> T:
    """An object of the class from resolved values; unknown keys are left out, optional ones may be absent.

    Raises InvalidInput naming the key.
    """
    known = {field.name: field for field in _struct_fields(inputs)}
    given = {name: value for name, value in values.items() if name in known}
    for name, field in known.items():
        if name not in given and field.required and _split(field.type)[1]:
            given[name] = None
    try:
        return msgspec.convert(given, inputs, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{inputs.__name__}: {error}") from None


def _struct_fields(kind: type[Any]) -> tuple[structs.FieldInfo, ...]:
    return structs.fields(kind)


def _field(inputs: type[Inputs], field: structs.FieldInfo, annotation: Any) -> triggers.InputField | None:
    kind, optional, meta = _split(annotation)
    described = _described(kind)
    if described is None:
        report(
            "E403",
            f"inputs {inputs.__name__!r}: {field.name!r} has a type that is no input",
            "str, int, float, bool, Literal or an Enum of these, optionally `| None`",
            source=inputs.__kici_source__,
        )
        return None
    type_, choices = described
    default = field.default
    if default is NODEFAULT:
        default = None
    elif choices and not isinstance(default, str | int | float | bool | None):
        default = getattr(default, "value", None)  # a member of an Enum
    if (
        wrong := _wrong_default(default, type_, choices, optional, given=field.default is not NODEFAULT)
    ) or (wrong := _wrong_meta(meta, type_)):
        report(
            "E403",
            f"inputs {inputs.__name__!r}: {field.name!r} {wrong}",
            "correct its default or its Meta",
            source=inputs.__kici_source__,
        )
        return None
    return triggers.InputField(
        name=field.name,
        type=type_,
        required=field.default is NODEFAULT and not optional,
        default=getattr(default, "value", default),
        choices=choices,
        ge=meta.ge,
        le=meta.le,
        min_length=meta.min_length,
        max_length=meta.max_length,
        pattern=meta.pattern,
        description=meta.description,
    )


def _split(annotation: Any) -> tuple[Any, bool, Meta]:
    """The type itself, whether None is allowed, and what `Annotated` says about it."""
    meta = Meta()
    optional = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            meta = next((extra for extra in extras if isinstance(extra, Meta)), meta)
        elif get_origin(annotation) in _UNIONS:
            others = [part for part in get_args(annotation) if part is not type(None)]
            if len(others) != 1 or len(others) == len(get_args(annotation)):
                return None, optional, meta
            annotation, optional = others[0], True
        else:
            return annotation, optional, meta


_UNIONS: tuple[Any, ...] = (Union, type(int | None))


def _described(kind: Any) -> tuple[FieldType, list[str | int | float | bool]] | None:
    if (plain := _PLAIN.get(kind) if isinstance(kind, type) else None) is not None:
        return plain, []
    if get_origin(kind) is Literal:
        values: list[Any] = list(get_args(kind))
    elif isinstance(kind, type) and hasattr(kind, "__members__"):
        values = [member.value for member in cast("Any", kind).__members__.values()]
    else:
        return None
    first = _PLAIN.get(type(values[0])) if values else None
    if first is None or any(_PLAIN.get(type(value)) != first for value in values):
        return None
    return first, values


def _wrong_default(
    default: Any, type_: FieldType, choices: list[Any], optional: bool, *, given: bool
) -> str:
    if not given or (default is None and optional):
        return ""
    if default is None:
        return "has the default None; write `| None`"
    value = getattr(default, "value", default)
    fits = _PLAIN.get(type(value))
    if fits != type_ and not (type_ == "number" and fits == "integer"):
        return f"has a default of another type: {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"has the default {value!r}"
    return (
        "" if not choices or value in choices else f"has a default that is none of its choices: {value!r}"
    )


def _wrong_meta(meta: Meta, type_: FieldType) -> str:
    if type_ not in {"integer", "number"} and (meta.ge is not None or meta.le is not None):
        return "has `ge` or `le`, but is no number"
    if type_ != "string" and (
        meta.min_length is not None or meta.max_length is not None or meta.pattern is not None
    ):
        return "has a length or a pattern, but is no text"
    return ""
