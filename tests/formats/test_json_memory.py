"""The memory of a JSON is computed before it is parsed: never too low, and close where tokenizers need it."""

from __future__ import annotations

import json
import re
import tracemalloc

import pytest

from aprnb.errors import CheckpointError
from aprnb.formats.json_memory import bound_memory
from aprnb.formats.metadata import read_metadata

FIXED_BYTES = 4096
"""For what does not grow with the JSON."""
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TOKENS = [{"id": at, "content": f"<unused{at}>", **FLAGS} for at in range(1_000)]
JSON: dict[str, object] = {
    "added tokens": TOKENS,
    "added tokens by id": {str(at): {"content": f"<unused{at}>", **FLAGS} for at in range(1_000)},
    "added tokens with other keys": [{"id": at, "content": "é", **FLAGS, f"k{at}": None} for at in range(1_000)],
    "constants": [True, False, None] * 4_000,
    "constants in objects": [{"a": True, f"b{at}": False, "c": None} for at in range(2_000)],
    # where a table of keys has just grown: it does at two thirds of 2^15
    "keys of their own": {f"key{at}": at for at in range(21_846)},
    "keys that end like those of added tokens": {f'key{at}"special': at for at in range(21_846)},
    "objects in objects": [{"special": {"special": {"special": True}}} for _ in range(1_000)],
    "ASCII": [f"{at:0{at % 40}}" for at in range(4_000)],
    "Latin-1": ["é" * (1 + at % 40) for at in range(4_000)],
    "two bytes": ["▁" * (1 + at % 40) for at in range(4_000)],
    "four bytes": ["\U0001f600" * (1 + at % 40) for at in range(4_000)],
    "texts that look like keys": ['"special":true' * 5 for _ in range(2_000)],
    "numbers": [10.0**at for at in range(-200, 200)] * 10 + [7**at for at in range(1_000)],
}


def estimate(raw: bytes) -> int:
    with pytest.raises(CheckpointError) as caught:
        bound_memory(raw, 0, 0, "x", 0)
    found = re.search(r"take ([\d,]+) bytes", str(caught.value))
    assert found is not None
    return int(found[1].replace(",", ""))


def taken(raw: bytes) -> int:
    """The most memory while the JSON is read as metadata are, in addition to its bytes."""
    tracemalloc.start()
    read_metadata(lambda: raw, "x.apr", 0, len(raw))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("written", [{"separators": (",", ":")}, {"ensure_ascii": False}])
def test_reading_takes_no_more_than_computed(kind: str, written: dict[str, object]) -> None:
    raw = json.dumps({"a": JSON[kind]}, **written).encode()  # type: ignore[arg-type]
    assert taken(raw) <= estimate(raw) + FIXED_BYTES


@pytest.mark.parametrize("key", ["special", "k"])
def test_a_key_that_an_object_repeats_takes_no_more_than_computed(key: str) -> None:
    """The list of repeated keys is then as long as the object."""
    raw = ("{" + ",".join([f'"{key}":true'] * 20_000) + "}").encode()
    assert taken(raw) <= estimate(raw) + FIXED_BYTES


def test_keys_that_added_tokens_repeat_are_computed_once() -> None:
    """Gemma 3's metadata list 6,415 added tokens, in two files: 83,000 keys."""
    once, twice = (
        estimate(json.dumps({"a": TOKENS[:count]}, separators=(",", ":")).encode()) for count in (500, 1_000)
    )
    # 2,591 if each key were another: then five constants take 32 bytes and seven keys 98 bytes more
    assert (twice - once) / 500 < 1_850
