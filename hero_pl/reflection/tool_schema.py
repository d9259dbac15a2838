"""Parameters of tools as JSON schemas in which every text and list ends, for reviews under a grammar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hero_pl.errors import ConfigError

MOST_ITEMS = 8
"""Maximum number of entries of a list in a corrected action, so that every answer ends."""
_NO_RULES = frozenset(
    {
        *("description", "default", "examples", "title", "$defs", "definitions", "$schema", "$id", "$comment"),
        *("patternProperties", "propertyNames", "minProperties", "maxProperties"),  # only named properties are written
        *("pattern", "format", "minLength", "maxLength"),  # every text has a pattern of its own
    }
)


def text(max_chars: int) -> dict[str, Any]:
    """Schema of a text on one line, without control characters and characters that JSON has to escape."""
    return {"type": "string", "pattern": f'^[^\\x00-\\x1f\\x7f"\\\\]{{1,{max_chars}}}$'}


def bounded(tool: str, parameters: Mapping[str, Any], max_chars: int) -> dict[str, Any]:
    """The parameters of a tool with limits on every text and list, without references and additional properties.

    Args:
        tool: Its name, for messages.
        parameters: JSON schema of an object.
        max_chars: Maximum length of a text.

    Raises:
        ConfigError: The schema contains itself, or refers to what it does not contain.
    """
    return _Parameters(tool, parameters, max_chars).bounded(parameters, ())


@dataclass(frozen=True, slots=True)
class _Parameters:
    tool: str
    whole: Mapping[str, Any]
    max_chars: int

    def bounded(self, schema: Any, inside: tuple[str, ...]) -> dict[str, Any]:
        """A part of the schema with limits.

        Args:
            schema: The part.
            inside: References that have led to it.
        """
        rule, inside = self._plain(schema, inside)
        if "enum" in rule or "const" in rule:
            return rule
        kind = rule.get("type")
        if isinstance(kind, list):
            return {"anyOf": [self.bounded({**rule, "type": one}, inside) for one in kind]}
        for name in ("anyOf", "oneOf"):
            if name in rule:
                other = {key: value for key, value in rule.items() if key != name}
                return {"anyOf": [self.bounded({"allOf": [other, one]}, inside) for one in rule[name]]}
        if kind == "string":
            return rule | text(self.max_chars)
        if kind == "array":
            most = max(min(rule.get("maxItems", MOST_ITEMS), MOST_ITEMS), rule.get("minItems", 0))
            rule |= {"maxItems": most, "items": self.bounded(rule.get("items") or {"type": "string"}, inside)}
            if "prefixItems" in rule:
                rule["prefixItems"] = [self.bounded(one, inside) for one in rule["prefixItems"]]
        if kind == "object" or "properties" in rule:
            named = (rule.get("properties") or {}).items()
            rule |= {"type": "object", "additionalProperties": False}
            rule["properties"] = {name: self.bounded(value, inside) for name, value in named}
        if "type" not in rule:  # anything, which has no end
            return {"anyOf": [text(self.max_chars), {"type": "number"}, {"type": "boolean"}, {"type": "null"}]}
        return rule

    def _plain(self, schema: Any, inside: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """A part of the schema without references and ``allOf`` at its top, and the references inside it now."""
        given = schema if isinstance(schema, Mapping) else {}  # true: anything
        rule = {key: value for key, value in given.items() if key not in (*_NO_RULES, "$ref", "allOf")}
        parts, here = list(given.get("allOf", ())), inside
        if "$ref" in given:
            place = str(given["$ref"])
            if place in inside:
                raise self._error(f"refer to {place!r} inside of it, so that an action may have no end")
            here = (*inside, place)
            parts.append(self._at(place))
        found = here
        for part in parts:
            other, deeper = self._plain(part, here)
            found = (*found, *(one for one in deeper if one not in found))
            properties = {**(other.get("properties") or {}), **(rule.get("properties") or {})}
            required = dict.fromkeys([*(other.get("required") or ()), *(rule.get("required") or ())])
            rule = {**other, **rule}
            rule |= {"properties": properties} if properties else {}
            rule |= {"required": list(required)} if required else {}
        return rule, found

    def _at(self, place: str) -> Any:
        """What a reference stands for."""
        found: Any = self.whole
        for step in place.removeprefix("#").strip("/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if not place.startswith("#") or not isinstance(found, Mapping) or (name and name not in found):
                raise self._error(f"refer to {place!r}, which is not in their schema")
            found = found[name] if name else found
        return found

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(
            f"The parameters of the tool {self.tool!r} {problem}. Change them, or set the reflector's constrained "
            "(response_format of ChatReflector): false with on_invalid: retry."
        )
