"""Seeded damage to JSON and TOML texts that knows their syntax: odd values at any depth, keys twice, deep nesting."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mutations import cut, extend, flip_anywhere, odd_number, odd_value, splice

DEPTHS = (8, 20, 90, 300, 450, 600, 800, 920, 960, 985, 1500, 9000, 100_000)
MANY = (100, 5_000, 200_000)
LARGE_BYTES = 100_000
"""Texts that an earlier mutation made larger are only changed blindly: the others take too long."""
_PLACEHOLDER = "@@raw{}@@"
Blind = Callable[[random.Random, bytearray], bytes]
BLIND: tuple[Blind, ...] = (flip_anywhere, flip_anywhere, cut, extend, splice)
RAW = (
    "1" * 400, "9" * 5_000, "-" + "9" * 5_000, "1e308", "1e999", "-1e999", "1e-400", "NaN", "Infinity", "-Infinity",
    "-0", "-0.0", "2.0", "16.0", "0.1e1", "01", "+1", ".5", "1.", "0x10", "9007199254740993", "18446744073709551616",
    '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\x01"', '"\udcff"', '{"a":1,"a":2}',
    '{"a":1,"a":1}', '{"a":null,"a":1}', "'x'", "tru", "undefined", "/**/1", "1,", "", "null,null", '"\u2028"',
    "1.7976931348623159e308", "3.4028236e38", "65505.0", '"NaN"', '"1"', '"__tensor__"',
)  # fmt: skip
"""Values as they stand in a JSON text, some of which no JSON has."""


def damaged(
    rng: random.Random, data: bytes, change: Callable[[random.Random, bytes], bytes], aware: float = 0.75
) -> bytes:
    """`data` after one to three mutations, each by `change` with a probability of `aware`, else blind."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = change(rng, data) if rng.random() < aware else blind(rng, data)
    return data


def blind(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(BLIND)(rng, bytearray(data)) if data else rng.choice((b"\0", b"{}", b"{", b"\xff"))


@dataclass
class _Change:
    """One change of a JSON tree; `raw` contains texts that json.dumps would not write, by placeholder."""

    rng: random.Random
    words: Sequence[str]
    raw: dict[str, str] = field(default_factory=dict)

    def placeholder(self, text: str) -> str:
        name = _PLACEHOLDER.format(len(self.raw))
        self.raw[name] = text
        return name

    def odd(self, near: Any) -> Any:
        """A value in place of `near`: akin to it, of another kind, or not JSON at all."""
        what = self.rng.random()
        if what < 0.35:
            return _akin(self.rng, near)
        if what < 0.6:
            return odd_value(self.rng)
        if what < 0.8:
            return self.placeholder(self.rng.choice(RAW))
        if what < 0.9:
            return self.rng.choice(self.words) if self.words else ""
        return self.placeholder(_large(self.rng)) if what < 0.96 else [near]

    def item(self, node: dict[str, Any] | list[Any]) -> None:
        """One item of a list or an object that is not empty: replaced, gone, twice, under another key."""
        rng = self.rng
        key: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        other: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        what = rng.random()
        if what < 0.55:
            node[key] = self.odd(node[key])
        elif what < 0.65:
            del node[key]
        elif what < 0.72:
            node[key], node[other] = node[other], node[key]
        elif what < 0.8 and isinstance(node, dict):
            value = node[key] if rng.random() < 0.4 else self.odd(node[key])
            node[self.placeholder(json.dumps(key))] = value
        elif what < 0.88 and isinstance(node, dict):
            node[rng.choice((*self.words, f"{key}x", key.upper(), "", other))] = node.pop(key)
        elif isinstance(node, dict):
            node[rng.choice((*self.words, "x" * 300, "\u202e", "a\nb"))] = self.odd(node[key])
        else:
            node.insert(key, self.odd(node[other]))


def changed_json(rng: random.Random, data: bytes, words: Sequence[str] = ()) -> bytes:
    """The JSON in `data` with up to four changes; `words` are keys and texts that mean something to its reader."""
    try:
        tree = json.loads(data if len(data) < LARGE_BYTES else b"")
    except (ValueError, RecursionError):
        return blind(rng, data)
    change = _Change(rng, words)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if rng.random() < 0.03:
            tree = {"x": tree} if rng.random() < 0.3 else change.odd(tree)
        elif isinstance(tree, dict | list) and tree:
            change.item(_somewhere(rng, tree))
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.6, indent=rng.choice((None, None, 1)))
    except RecursionError:  # an odd value inside a nesting that was barely read
        return blind(rng, data)
    for name, raw in change.raw.items():
        text = text.replace(f'"{name}"', raw)
    return _encoded(rng, text)


def _somewhere(rng: random.Random, node: Any) -> Any:
    """A list or an object at a random depth, not empty."""
    while rng.random() < 0.7:
        inner = [value for value in (node.values() if isinstance(node, dict) else node) if _has_items(value)]
        if not inner:
            break
        node = rng.choice(inner)
    return node


def _has_items(value: Any) -> bool:
    return isinstance(value, dict | list) and bool(value)


def _akin(rng: random.Random, value: Any) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((1, 1, -1)) * odd_number(rng, value, 1 << 20)
    if isinstance(value, float):
        return rng.choice((0.0, -value, value * 2, 1e300, 5e-324, value // 1 if math.isfinite(value) else 0))
    if isinstance(value, str):
        odd = (
            value + "x",
            value[:-1],
            value * 2,
            f"../{value}",
            f"{value}\0",
            value + "\u202e",
            value.upper(),
            "\ud800",
        )
        return rng.choice(odd)
    if isinstance(value, list):
        return rng.choice((value[::-1], value[:-1], value * 2, value[1:], {"a": value}))
    return rng.choice(({}, list(value.items()), list(value))) if isinstance(value, dict) else 0


def _large(rng: random.Random) -> str:
    """A value that is nested deeply, or has many parts."""
    depth, many = rng.choice(DEPTHS), rng.choice(MANY)
    forms = ("[" * depth + "]" * depth, '{"a":' * depth + "0" + "}" * depth, "[" * depth)
    forms += (f"[{'0,' * many}0]", f'"{"x" * many}"', f"[{'[],' * (many // 8)}0]", f'"{"𝄞é" * (many // 8)}"')
    return rng.choice(forms)


def _encoded(rng: random.Random, text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    what = rng.random()
    if what < 0.96:
        return data
    return rng.choice((b"\xef\xbb\xbf" + data, text.encode("utf-16", "surrogatepass"), data + b"\n{}", b" \n" + data))


ODD_TOML = (
    "0", "-1", "1", "3", "2.0", "1e999", "inf", "-inf", "nan", "1" * 400, "9" * 5_000, "9007199254740993", "0x10",
    "9223372036854775807", "1979-05-27T07:32:00Z", "1e308", "5e-324", "true", "false", '""', '"auto"', '"lora"', "[]",
    "{}", "[1]", '["a"]',
    '["q_proj", "v_proj"]', '"a=b"', '["a=b", "c"]', "1979-05-27", f"0x{'f' * 5_000}", "07:32:00", '"x\\u0000"',
    '"\\U0001F600"', "'''\nx'''", '"' + "x" * 5_000 + '"', "{a = {b = 1}}", "[[[]]]", '"true"', '"1"', '"3.5"',
    "[{instruction = 'a', response = 'b'}]", "{model_type = 'qwen3'}", '"{{ 1 }}"', '"chatml"', "[true, 1.5, 'x']",
    '"\u202e"', '"1e400"', '"nan"', '"all-linear"', '", ,"', "['']", '"8B"',
)  # fmt: skip


def changed_toml(rng: random.Random, data: bytes, keys: Sequence[str], value_of: Callable[[str], str]) -> bytes:
    """Lines of a TOML text replaced, twice, gone or added; `value_of` gives a key a value that it may well take."""
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, what, key = rng.randrange(len(lines)), rng.random(), rng.choice(keys)
        name = lines[at].partition("=")[0].strip() or key
        if what < 0.35:
            lines[at] = f"{name} = {value_of(name) if rng.random() < 0.6 else _toml_value(rng)}"
        elif what < 0.75:
            value = value_of(key) if rng.random() < 0.7 else _toml_value(rng)
            lines = [line for line in lines if line.partition("=")[0].strip() != key or rng.random() < 0.2]
            lines.insert(rng.choice((0, at)), f"{_toml_key(rng, key)} = {value}")
        elif what < 0.88:
            del lines[at]
        elif what < 0.92:
            lines.insert(at, lines[rng.randrange(len(lines))])
        else:
            lines.insert(at, rng.choice((f"[{key}]", f"[[{key}]]", "x", "=", "\u2028", "\r", "# x", "")))
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _toml_key(rng: random.Random, name: str) -> str:
    if rng.random() < 0.7:
        return name
    forms = (name.replace("_", "-"), f'"{name}"', f"'{name}'", f"--{name}", f"{name}.a", f'"{name} "')
    return rng.choice((*forms, "a." * rng.choice((3, 400, 600, 5_000)) + "b", f'"\\u{ord(name[0]):04x}{name[1:]}"'))


def _toml_value(rng: random.Random) -> str:
    if rng.random() < 0.95:
        return rng.choice(ODD_TOML)
    depth = rng.choice((8, 90, 300, 900, 3000, 9000))
    return rng.choice(("[" * depth + "]" * depth, "{a=" * depth + "1" + "}" * depth, "[" * depth))
