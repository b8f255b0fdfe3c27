"""An example of a body, made of what its fields say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
BY_FORMAT = {"date-time": "2030-01-31T00:00:00Z"}


def example_of(schema: Schema, components: Mapping[str, Schema]) -> Any:
    """A value that the schema takes: its own example, its default, or the smallest there is."""
    if "$ref" in schema:
        return example_of(components[schema["$ref"].rpartition("/")[2]], components)
    for known in ("examples", "enum"):
        if schema.get(known):
            return schema[known][0]
    if "default" in schema:
        return schema["default"]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], components)
    if schema.get("type") == "object":
        return _object(schema, components)
    if schema.get("type") == "array":
        return [example_of(schema["items"], components)] if schema.get("items") else []
    if schema.get("type") in ("integer", "number"):
        return schema.get("minimum", 0)
    if schema.get("type") == "boolean":
        return False
    return BY_FORMAT.get(schema.get("format", ""), "a" * schema.get("minLength", 1))


def _object(schema: Schema, components: Mapping[str, Schema]) -> dict[str, Any]:
    needed = schema.get("required", [])
    return {
        name: example_of(part, components)
        for name, part in schema.get("properties", {}).items()
        if name in needed or "examples" in part
    }
