"""Files whose every part is allowed, in such numbers that time or memory would run out."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from registry import ENTRY, attack, file_of

from aprnb.errors import CheckpointError
from aprnb_tests import apr_bytes as b
from aprnb_tests import gguf_bytes as g
from aprnb_tests import safetensors_bytes as s

ALPHABET = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
"""The 256 characters of a byte-level vocabulary, Ġ and Ċ among them."""
QWEN3 = {
    "architecture": "qwen3", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "vocab_size": 100, "rope_theta": 1e4, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = QWEN3 | {
    "architecture": "qwen3_moe", "num_layers": 16, "num_experts": 1024, "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "hf_config": {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "model_type": "qwen3_moe"},
}  # fmt: skip
TAG = "\U000e0001"  # four bytes in UTF-8, ten where Python escapes it


def compact(metadata: object) -> bytes:
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()


def apr(metadata: object, data_bytes: int = 64) -> bytes:
    """A sound file of one tensor with zeros behind it."""
    entry = b.entry("a", 0, (data_bytes // 4,), 0, data_bytes)
    return file_of(entry, metadata=compact(metadata), data=bytes(data_bytes))


def wide(count: int) -> list[str]:
    """Different texts of two characters that Python keeps at two bytes each."""
    return [chr(0x4E00 + number % 20_000) + chr(0x3400 + number // 20_000) for number in range(count)]


def merges(count: int) -> list[str]:
    """`a b` for every pair of the alphabet, then `ab c`."""
    pairs = [(left, right) for left in ALPHABET for right in ALPHABET]
    triples = ((left + right, last) for left, right in pairs for last in ALPHABET)
    return [f"{left} {right}" for left, right in islice(chain(pairs, triples), count)]


def byte_level(words: int, rules: int) -> dict[str, Any]:
    """A vocabulary of so many merged words, and so many merges that make them (over again where they are more)."""
    made = merges(words)
    vocabulary = [*ALPHABET, *(merge.replace(" ", "") for merge in made)]
    return {"tokenizer.vocabulary": vocabulary, "tokenizer.merges": (made * (rules // words + 1))[:rules]}


def tensors(names: Iterable[str], metadata: object, code: int, shape: tuple[int, ...], size: int, step: int) -> bytes:
    entries = [b.entry(name, code, shape, step * at, size) for at, name in enumerate(names)]
    return file_of(*entries, metadata=compact(metadata), data=bytes(step * len(entries)))


def sparse(path: Path, front: bytes, size_bytes: int) -> Path:
    """`front`, then a hole up to `size_bytes`."""
    with path.open("wb") as file:
        file.write(front)
        file.truncate(size_bytes)
    return path


# The JSON of metadata


@attack("merges by the hundred thousand", None, "the pre-tokenizer of unknown's byte-level BPE is unknown")
def _(folder: Path) -> bytes:
    repeated = {"tokenizer.vocabulary": [*ALPHABET, "ab"], "tokenizer.merges": ["a b"] * 780_000}
    return apr(repeated)  # as pairs of texts they would take 200 bytes each


@attack("merges of letters that take two bytes", CheckpointError, "values, which take")
def _(folder: Path) -> bytes:
    return apr({"tokenizer.vocabulary": [*ALPHABET, "ĀĀ"], "tokenizer.merges": ["Ā Ā"] * 780_000})


@attack("merges of blanks", None, "merge 0 is '   '")
def _(folder: Path) -> bytes:
    return apr({"tokenizer.vocabulary": [*ALPHABET, "ab"], "tokenizer.merges": ["   "] * 780_000})


@attack("1,200,000 merges", None, "tokenizer.merges has 1,200,000 entries")
def _(folder: Path) -> bytes:
    return apr({"tokenizer.vocabulary": [*ALPHABET, "ab"], "tokenizer.merges": ["a b"] * 1_200_000}, 30 << 20)


@attack("200,000 tokens and merges", None, "the pre-tokenizer of unknown's byte-level BPE is unknown")
def _(folder: Path) -> bytes:
    return apr(byte_level(200_000, 200_000), 4 << 20)


@attack("a vocabulary of one text", None, "the vocabulary repeats 'ab'")
def _(folder: Path) -> bytes:
    return apr({"tokenizer.vocabulary": [*ALPHABET, *["ab"] * 327_000], "tokenizer.merges": ["a b"]})


@attack("scores and token types by the hundred thousand", None, "over 16,384 entries of the vocabulary")
def _(folder: Path) -> bytes:
    pieces = ["▁", "<0x0A>", *wide(130_000)]
    scores, types = [-float(at) for at in range(len(pieces))], [3] * len(pieces)
    return apr({"tokenizer.vocabulary": pieces, "tokenizer.scores": scores, "tokenizer.token_type": types})


@attack("scores beyond every floating-point number", None, "does not define|unigram")
def _(folder: Path) -> bytes:
    return apr({"tokenizer.vocabulary": ["a", "▁"], "tokenizer.scores": [-(10**3000), -1]})


@attack("87,000 pieces that split in every way", None, "split into two others in more than")
def _(folder: Path) -> bytes:
    pieces = [""]
    for _ in range(8):
        pieces += [piece + letter for piece in pieces for letter in "abcd" if len(piece + letter) > len(pieces[-1])]
    words = ["▁", "<0x0A>", *dict.fromkeys(pieces[1:])]
    return apr({"tokenizer.vocabulary": words, "tokenizer.scores": [-at for at in range(len(words))]})


@attack("60,000 pieces of 256 characters", None, "the pieces have 15,[0-9,]+ characters")
def _(folder: Path) -> bytes:
    pieces = ["▁", "<0x0A>", *(f"{at:06}".ljust(256, "x") for at in range(60_000))]
    return apr({"tokenizer.vocabulary": pieces, "tokenizer.scores": [-at for at in range(len(pieces))]})


@attack("special tokens by the hundred thousand", CheckpointError, "values, which take")
def _(folder: Path) -> bytes:
    return apr({"special_tokens": {f"t{at}": f"<|{at}|>" for at in range(190_000)}})


@attack("190,000 keys", None)
def _(folder: Path) -> bytes:
    return apr({f"k{at}": at for at in range(190_000)})


@attack("100,000 keys that repeat", None, "99,990 more keys")
def _(folder: Path) -> bytes:
    pairs = b",".join(b'"key%d":null,"key%d":1' % (at, at) for at in range(100_000))
    return file_of(ENTRY, metadata=b"{" + pairs + b"}")


@attack("a list of 560,000 texts where a text belongs", None, "the format requires text")
def _(folder: Path) -> bytes:
    return apr({"name": [chr(0x100 + at % 20_000) for at in range(560_000)]})  # an error decodes it again


@attack("a megabyte where a tokenizer's type belongs", None, "does not define")
def _(folder: Path) -> bytes:
    vocabulary = {"tokenizer.vocabulary": ["a", "b"], "tokenizer.merges": ["a b"]}
    return apr(vocabulary | {"tokenizer.model": [TAG * (4 << 20)]})


@attack("an emoji inside of 20 MiB of ASCII", CheckpointError, "values, which take")
def _(folder: Path) -> bytes:
    return apr({"a": "x" * (20 << 20) + "\U0001f600"})  # one text, at four bytes for each of its letters


@attack("an escaped emoji inside of 20 MiB of ASCII", CheckpointError, "values, which take")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"a":"' + b"x" * (20 << 20) + b'\\ud83d\\ude00"}')


@attack("an escaped emoji next to 14 MiB of ASCII", None)
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"a":"' + b"x" * (14 << 20) + b'","b":"\\ud83d\\ude00"}')


@attack("40 MiB of emoji", None)
def _(folder: Path) -> bytes:
    return apr({"a": "\U0001f600" * (10 << 20)})


@attack("three million values in a file of gigabytes", CheckpointError, "at most 2,097,152")
def _(folder: Path) -> Path:
    metadata = compact({"a": [chr(0x100 + at % 20_000) for at in range(3_000_000)]})
    size = 4 << 30
    front = b.front(metadata, [b.entry("a", 0, (size // 4,), 0, size)])
    return sparse(folder / "x.apr", front, len(front) + size)


# GGUF


def gguf_list(key: str, kind: int, values: list[Any]) -> bytes:
    return g.pair(key, g.ARRAY, (kind, values))


@attack("300,000 strings in a GGUF array", None, "300,000 entries", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.whole([gguf_list("tokenizer.ggml.tokens", g.STRING, wide(300_000))])


@attack("150,000 strings of 255 bytes in a GGUF array", None, name="x.gguf")
def _(folder: Path) -> bytes:
    return g.whole([gguf_list("k", g.STRING, [f"{at:06}".ljust(255, "x") for at in range(150_000)])])


@attack("560,000 empty strings in a GGUF array", None, name="x.gguf")
def _(folder: Path) -> bytes:
    return g.whole([gguf_list("k", g.STRING, [""] * 560_000)])


@attack("130,000 tokens and merges in GGUF arrays", None, "merges +130,000", name="x.gguf")
def _(folder: Path) -> bytes:
    found = byte_level(130_000, 130_000)
    lists = [gguf_list(f"tokenizer.ggml.{key}", g.STRING, found[f"tokenizer.{old}"])
             for key, old in (("tokens", "vocabulary"), ("merges", "merges"))]  # fmt: skip
    return g.whole([g.pair("general.architecture", g.STRING, "qwen3"), *lists])


@attack("a million numbers of 64 bits in a GGUF array", CheckpointError, "numbers take too much memory", name="x.gguf")
def _(folder: Path) -> bytes:
    numbers = struct.pack("<1000000Q", *range(1 << 63, (1 << 63) + 1_000_000))
    return g.header(0, 1) + g.text("k") + struct.pack("<IIQ", g.ARRAY, g.U64, 1_000_000) + numbers


@attack("heads of 900,000 layers in a GGUF array", None, name="x.gguf")
def _(folder: Path) -> bytes:
    numbers = struct.pack("<900000I", *range(1_000_000, 1_900_000))
    heads = g.text("llama.attention.head_count") + struct.pack("<IIQ", g.ARRAY, g.U32, 900_000) + numbers
    return g.header(0, 2) + g.pair("general.architecture", g.STRING, "llama") + heads


@attack("65,536 keys in a GGUF file", None, name="x.gguf")
def _(folder: Path) -> bytes:
    return g.whole(g.pair(f"k{at}", g.STRING, f"Ā{at}") for at in range(65_536))


def gguf_parts(folder: Path, count: int, more: list[bytes], tensor_count: int) -> Path:
    """A model in `count` parts, each with the keys `more` and so many tensors."""
    names = [f"x-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)]
    for part, name in enumerate(names):
        stated = [g.pair("split.no", g.U16, part), g.pair("split.count", g.U16, count), *more]
        infos = [g.info(f"{part}.{at}", (4,), 0, 32 * at) for at in range(tensor_count)]
        (folder / name).write_bytes(g.whole(stated, infos, bytes(32 * tensor_count)))
    return folder / names[0]


@attack("GGUF parts with 60,000 tensors each", CheckpointError, "the tensor count is 60,000")
def _(folder: Path) -> Path:
    return gguf_parts(folder, 3, [], 60_000)


@attack("GGUF parts with 60,000 keys each", CheckpointError, "the key count is 60,002")
def _(folder: Path) -> Path:
    return gguf_parts(folder, 3, [g.pair(f"k{at}", g.U8, 0) for at in range(60_000)], 1)


@attack("GGUF parts with a vocabulary each", CheckpointError, "texts take too much memory")
def _(folder: Path) -> Path:
    return gguf_parts(folder, 4, [gguf_list("k", g.STRING, wide(300_000))], 1)


# Tensors


@attack("130,000 index entries that are each odd", CheckpointError, "lists 130,000 tensors")
def _(folder: Path) -> bytes:
    return tensors((f"{130_000 - at:06}" for at in range(130_000)), {}, 2, (32,), 18, 72)


@attack("16,000 index entries that are each odd", None, "not sorted by name.*and 15,998 more")
def _(folder: Path) -> bytes:
    return tensors((f"{16_000 - at:06}".ljust(270, "x") for at in range(16_000)), {}, 2, (32,), 18, 72)


@attack("16,000 index entries of different shapes", None)
def _(folder: Path) -> bytes:
    return file_of(*(b.entry(f"{at:06}", 8, (at + 1, 0), 0, 0) for at in range(16_000)), data=b"")


@attack("8,000 tensors that the model does not have", None, "Contract broken: 8024 violations")
def _(folder: Path) -> bytes:
    names = (f"model.layers.{at % 2}.self_attn.q_proj.{at // 2}.weight" for at in range(8_000))
    return tensors(names, QWEN3, 0, (4,), 16, 64)


@attack("24,576 experts that are missing", None, "Contract broken: 24[0-9]+ violations")
def _(folder: Path) -> bytes:
    return tensors(["model.norm.weight"], EXPERTS | {"num_layers": 8}, 0, (64,), 256, 256)


@attack("4,000 experts of another shape", None, "Contract broken: 12[0-9]+ violations")
def _(folder: Path) -> bytes:
    names = (f"model.layers.{at // 1024}.mlp.experts.{at % 1024}.up_proj.weight" for at in range(4_000))
    return tensors(names, EXPERTS | {"num_layers": 4}, 0, (4,), 16, 64)


def safetensors(folder: Path, count: int, size_bytes: int, **about: str) -> Path:
    header: dict[str, Any] = {"__metadata__": about}
    for at in range(count):
        header[f"t{at}"] = s.info("F32", [size_bytes // 4], size_bytes * at, size_bytes * (at + 1))
    front = s.file_of(header)
    return sparse(folder / "x.safetensors", front, len(front) + size_bytes * count)


@attack("130,000 tensors in a safetensors header", CheckpointError, "holds about [0-9,]+ values")
def _(folder: Path) -> Path:
    return safetensors(folder, 130_000, 8192)  # a sparse gigabyte


@attack("30,000 tensors in a safetensors header", None)
def _(folder: Path) -> Path:
    return safetensors(folder, 30_000, 4)


@attack("190,000 texts in a safetensors header", CheckpointError, "values, which take")
def _(folder: Path) -> Path:
    return safetensors(folder, 1, 4, **{f"k{at}": f"Ā{at}" for at in range(190_000)})
