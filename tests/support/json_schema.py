"""As much of JSON Schema as msgspec writes: enough to hold our published schemas against real documents."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = {
    *("$schema", "$ref", "$defs", "title", "description", "default", "type", "enum", "const", "anyOf"),
    *("properties", "required", "additionalProperties", "items", "prefixItems", "discriminator"),
    *("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "pattern", "propertyNames"),
}


class Schema:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def problems(self, value: object) -> list[str]:
        """Where `value` is not what the schema says; empty when it is."""
        return list(self._check(self._document, value, "$"))

    def _check(self, schema: Mapping[str, Any], value: object, path: str) -> Iterator[str]:
        unknown = set(schema) - _KNOWN
        assert not unknown, f"this checker lacks {unknown}"
        if "$ref" in schema:
            target: Any = self._document
            for part in cast("str", schema["$ref"]).removeprefix("#/").split("/"):
                target = target[part]
            yield from self._check(target, value, path)
        if "anyOf" in schema:
            branches = cast("Sequence[Mapping[str, Any]]", schema["anyOf"])
            tried = [list(self._check(branch, value, path)) for branch in branches]
            if all(tried):
                yield min(tried, key=len)[0]
        if "enum" in schema and value not in schema["enum"]:
            yield f"{path}: {value!r} is none of {schema['enum']}"
        if "const" in schema and value != schema["const"]:
            yield f"{path}: {value!r} is not {schema['const']!r}"
        kind = schema.get("type")
        if kind is not None:
            wrong_boolean = isinstance(value, bool) and kind != "boolean"
            if wrong_boolean or not isinstance(value, _TYPES[kind]):
                yield f"{path}: {type(value).__name__} is no {kind}"
                return
        if isinstance(value, dict):
            yield from self._mapping(schema, cast("dict[str, Any]", value), path)
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            for index, entry in enumerate(cast("list[object]", value)):
                yield from self._check(schema["items"], entry, f"{path}[{index}]")

    def _mapping(self, schema: Mapping[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}: {name!r} is missing"
        rest = schema.get("additionalProperties")
        for name, entry in value.items():
            if name in properties:
                yield from self._check(properties[name], entry, f"{path}.{name}")
            elif isinstance(rest, dict):
                yield from self._check(cast("dict[str, Any]", rest), entry, f"{path}.{name}")
            elif rest is False:
                yield f"{path}: {name!r} is unknown"
