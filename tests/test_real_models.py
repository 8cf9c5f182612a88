"""Published models go through every conversion; the apr tool, transformers and llama.cpp judge the results."""

import json
import subprocess

import numpy as np
import pytest

import aprnb
from aprnb.formats.contents import HEAD_NAME

pytestmark = [pytest.mark.real, pytest.mark.slow]

QWEN, GEMMA = "qwen2.5-coder-0.5b-instruct", "gemma-3-270m"
TEXT = (
    "def binary_search(items, wanted):\n    low, high = 0, len(items) - 1\n    while low <= high:\n"
    "        middle = (low + high) // 2\n        if items[middle] == wanted:\n            return middle\n"
)
CLEAR = {"f16": 0.1, "q8": 0.3, "q4_k_m": 0.3}
"""Log-probabilities of the two likeliest tokens closer than this may change places: llama.cpp rounds the activations to
8 bits where weights are quantised, which moves them by up to 0.2 in the published files too."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module", params=[QWEN, GEMMA])
def gguf(request, real_models):
    return real_models / f"{request.param}.gguf"


@pytest.fixture(scope="module")
def apr(gguf, folder):
    return aprnb.convert(gguf, folder / f"{gguf.stem}.apr").path


@pytest.fixture(scope="module")
def transformers_folder(apr, folder):
    """In F16, the nearest to the file's blocks; Gemma's would be BF16 unless asked for."""
    return aprnb.convert(apr, folder / apr.stem, dtype="f16").path


def require_equal_weights(one, other):
    """Every tensor of one file has the same values in the other; a head that is tied in one may be absent."""
    one, other = aprnb.open(one), aprnb.open(other)
    heads = {HEAD_NAME, "output.weight"}
    mine, theirs = aprnb.check(one).raise_for_violations(), aprnb.check(other).raise_for_violations()
    assert set(mine.weights) - heads == set(theirs.weights) - heads
    for name in mine.weights:
        if name in theirs.weights:
            assert np.array_equal(weight_values(one, mine, name), weight_values(other, theirs, name)), name


def weight_values(checkpoint, report, name):
    from aprnb.conversion.tensors import weight_parts

    return np.concatenate([np.ravel(part) for part in weight_parts(checkpoint, report, name)])


@pytest.mark.apr
def test_the_tool_opens_the_apr_and_lists_the_same_tensors(apr, apr_binary):
    def tool(command):
        done = subprocess.run(
            [str(apr_binary), command, str(apr), "--json", "--offline"], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    seen, architecture = tool("inspect"), aprnb.open(apr).architecture
    assert (seen["valid"], seen["checksum_valid"]) == (True, True)
    assert (seen["num_layers"], seen["hidden_size"]) == (architecture.num_hidden_layers, architecture.hidden_size)
    entries = aprnb.open(apr).tensors.values()
    assert {t["name"]: tuple(t["shape"]) for t in tool("tensors")["tensors"]} == {e.name: e.shape for e in entries}


def test_transformers_computes_the_same_from_the_folder(apr, transformers_folder):
    """Against the module that aprnb builds from the .apr. The folder holds values rounded to F16, by at most 2^-11 of
    each: measured on both models, that moves logits, which reach 35, by up to 0.024."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = torch.tensor([AutoTokenizer.from_pretrained(transformers_folder).encode(TEXT)])
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(transformers_folder, dtype=torch.float32)(ids).logits
        model, _ = aprnb.load(apr, device="cpu", dtype="float32")
        ours = model(ids).logits
    assert (ours - theirs).abs().max() <= 0.03
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("dtype", ["f16", "q8", "q4_k_m"])
def test_llama_cpp_continues_as_generate_does_from_the_same_gguf(transformers_folder, folder, llama_cpp, dtype):
    import torch

    path = aprnb.convert(transformers_folder, folder / f"{transformers_folder.name}-{dtype}.gguf", dtype=dtype).path
    model, tokenizer = aprnb.load(path, device="cpu", dtype="float32")
    ids = tokenizer.encode(TEXT)
    with llama_cpp(path) as peer:
        assert peer.tokenize(TEXT, add_special=True) == ids
        continued = peer.greedy(ids, 12)
    with torch.no_grad():
        likely = torch.log_softmax(model(torch.tensor([[*ids, *continued]])).logits[0], -1)
    for at, token in enumerate(continued, len(ids) - 1):
        best = likely[at].topk(2)
        if best.values[0] - best.values[1] > CLEAR[dtype]:
            assert token == int(best.indices[0]), at
    path.unlink()


def test_a_gguf_of_the_folder_gives_the_apr_back(apr, transformers_folder, folder):
    there = aprnb.convert(transformers_folder, folder / f"{apr.stem}-back.gguf").path
    back = aprnb.convert(there, folder / f"{apr.stem}-back.apr").path
    require_equal_weights(transformers_folder, back)


def test_a_gguf_of_the_apr_has_the_values_of_the_published_file(gguf, apr, folder):
    """What the .apr has no block type for was decoded; the second GGUF is read beside the first."""
    back = aprnb.convert(apr, folder / f"{apr.stem}-again.gguf").path
    one, other = aprnb.check(gguf), aprnb.check(back)
    first, second = aprnb.open(gguf), aprnb.open(back)
    for name in one.weights:
        mine, theirs = weight_values(first, one, name), weight_values(second, other, name)
        # F16 keeps 11 bits: half a unit of the last is 2^-11 of a value, 2^-25 where it is subnormal
        assert np.all(np.abs(mine - theirs) <= np.maximum(np.abs(mine) * 2.0**-11, 2.0**-25)), name
