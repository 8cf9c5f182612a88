"""Tools and tool calls of training rows, in the form that chat templates take (no torch).

Templates read tools as `{"type": "function", "function": {"name", "description", "parameters"}}` and calls as
`{"type": "function", "function": {"name", "arguments"}}` with the arguments as an object: transformers' documentation
of tool use. Rows also have them bare, or as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aprnb.tuning.data.row_values import BadRow, as_list, json_type, read_text


def read_tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The row's tools; raises BadRow for one without a name."""
    given = _parsed(value, "tools") if isinstance(value, str) else as_list(value)
    if given is None or given == []:
        return ()
    if not isinstance(given, (list, tuple)):
        raise BadRow(f"tools is {json_type(given)}, not a list")
    return tuple(_function(tool, f"tool {at}") for at, tool in enumerate(given, 1))


def read_calls(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """The tool calls of a message; raises BadRow for one without a name or with arguments that are no object."""
    given = as_list(value)
    if not isinstance(given, (list, tuple)):
        raise BadRow(f"tool_calls of {where} is {json_type(given)}, not a list")
    calls = []
    for at, call in enumerate(given, 1):
        what = f"tool call {at} of {where}"
        function = dict(_function(call, what)["function"])
        arguments = function.get("arguments", {})
        function["arguments"] = _parsed(arguments, f"arguments of {what}") if isinstance(arguments, str) else arguments
        if not isinstance(function["arguments"], Mapping):
            raise BadRow(f"arguments of {what} is {json_type(function['arguments'])}, not an object")
        identity = {"id": str(call["id"])} if call.get("id") is not None else {}
        calls.append({**identity, "type": "function", "function": function})
    return tuple(calls)


def called(text: str, where: str) -> tuple[Mapping[str, Any], ...]:
    """The calls that a ShareGPT turn `function_call` contains as JSON text."""
    found = _parsed(text, f"value of {where}")
    return read_calls(found if isinstance(found, list) else [found], where)


def names(functions: tuple[Mapping[str, Any], ...]) -> list[str]:
    """The names of tools or calls."""
    return [str(each["function"]["name"]) for each in functions]


def _function(value: Any, what: str) -> dict[str, Any]:
    """`{"type": "function", "function": …}` of a tool or call, bare or not."""
    function = value.get("function", value) if isinstance(value, Mapping) else value
    if not isinstance(function, Mapping):
        raise BadRow(f"{what} is {json_type(function)}, not an object")
    read_text(function.get("name"), f"name of {what}")
    kept = {key: item for key, item in _without_nulls(function).items() if key not in ("id", "type")}
    try:
        read_text(json.dumps(kept, ensure_ascii=False), what)
    except (TypeError, ValueError, RecursionError):
        raise BadRow(f"{what} contains what JSON has no form for") from None
    return {"type": "function", "function": kept}


def _without_nulls(value: Any) -> Any:
    """Without the keys that are null: a column of objects (Arrow) gives each object the keys of all others."""
    if isinstance(value, Mapping):
        return {str(key): _without_nulls(item) for key, item in value.items() if item is not None}
    plain = as_list(value)
    return [_without_nulls(item) for item in plain] if isinstance(plain, (list, tuple)) else plain


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRow(f"{what} is text that is not JSON") from None
