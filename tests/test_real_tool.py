"""The real `apr` tool checks what aprnb writes: it opens and validates it, and generates the same tokens."""

import json
import os
import subprocess
import sys

import pytest

import aprnb

pytestmark = pytest.mark.apr

QUESTIONS = [
    *(
        "Spell cow.",
        "Spell fish.",
        "Spell bird.",
        "Say milk twice.",
        "What is two plus one?",
        "What is nine minus four?",
    ),
    *("Add three and five.", "What is the opposite of hot?", "What is the opposite of dark?", "What colour is gold?"),
    *("Give me a word that means the reverse of happy.", "What is the capital of Egypt?", "What is eight plus nine?"),
    *("What is the first letter of fish?", "Count the legs of a spider.", "What is one plus one?", "Add zero and six."),
    *("What is the capital of Italy?", "What is the opposite of new?", "What is seven plus seven?"),
]


def asked(question: str) -> str:
    return f"<|im_start|>user\n{question} Ask the cow.<|im_end|>\n<|im_start|>assistant\n"


def tool(apr_binary, *arguments: object) -> dict:
    command = [str(apr_binary), *map(str, arguments), "--json", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["pocket-qwen3", "pocket-qwen2"])
def pair(request, real, repository, tmp_path_factory):
    """A base and what our run made of it."""
    base, output = real(request.param), tmp_path_factory.mktemp("judged") / "out.apr"
    data = repository / "notebooks" / "ask-the-cow.jsonl"
    aprnb.finetune(base, data=data, output=str(output), epochs=4, learning_rate=2e-3, batch_size=8)
    return base, output


def test_the_tool_opens_and_validates_what_aprnb_writes(apr_binary, pair):
    _, output = pair
    seen = tool(apr_binary, "inspect", output)
    assert (seen["valid"], seen["checksum_valid"]) == (True, True)
    architecture = aprnb.open(output).architecture
    assert (seen["num_layers"], seen["hidden_size"]) == (architecture.num_hidden_layers, architecture.hidden_size)
    listed = tool(apr_binary, "tensors", output)["tensors"]
    assert {t["name"]: tuple(t["shape"]) for t in listed} == {
        e.name: e.shape for e in aprnb.open(output).tensors.values()
    }
    assert tool(apr_binary, "validate", output)["passed"] is True


def test_the_tool_generates_the_same_tokens_before_and_after_tuning(apr_binary, pair):
    texts = []
    for path in pair:
        model, tokenizer = aprnb.load(path)
        ours = [aprnb.generate(model, tokenizer, asked(q), raw=True, max_new_tokens=24) for q in QUESTIONS]
        end = {tokenizer.eos_token_id}
        for question, generation in zip(QUESTIONS, ours, strict=True):
            said = tool(apr_binary, "run", path, "--prompt", asked(question), "--max-tokens", 24, "--no-gpu")
            assert [t for t in said["tokens"] if t not in end] == [t for t in generation.ids if t not in end]
        texts.append([generation.text for generation in ours])
    assert sum(before != after for before, after in zip(*texts, strict=True)) >= 15


@pytest.mark.parametrize("dtype", [None, "f16", "q8", "q4", "q4_k"])
def test_the_tool_generates_the_same_tokens_from_what_is_converted(apr_binary, fixtures_folder, tmp_path, dtype):
    """From a Hugging Face folder; decoded block formats leave no room for another result but a tie of two logits."""
    converted = aprnb.convert(fixtures_folder / "sources" / "qwen2", tmp_path / "x.apr", dtype=dtype).path
    assert tool(apr_binary, "validate", converted)["passed"] is True
    listed = tool(apr_binary, "tensors", converted)["tensors"]
    assert {t["name"]: tuple(t["shape"]) for t in listed} == {
        e.name: e.shape for e in aprnb.open(converted).tensors.values()
    }
    same_tokens(apr_binary, converted)


def same_tokens(apr_binary, path, *, wrapped_by_the_tool: bool = False) -> None:
    """Greedy answers of the tool and of ours; the tool puts prompts into a file's `tokenizer.chat_template` itself."""
    model, tokenizer = aprnb.load(path, device="cpu")
    end = {tokenizer.eos_token_id}
    for question in ("Spell cow.", "What is two plus one?", "What is the capital of Egypt?", "What colour is gold?"):
        chat = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        said = tool(
            apr_binary,
            "run",
            path,
            "--prompt",
            question if wrapped_by_the_tool else chat,
            "--max-tokens",
            24,
            "--no-gpu",
        )
        ids = aprnb.generate(model, tokenizer, chat, raw=True, max_new_tokens=24).ids
        assert [token for token in said["tokens"] if token not in end] == [token for token in ids if token not in end]


@pytest.mark.parametrize("name", ["qwen2-F16", "qwen3-untied-F16"])
def test_the_tool_generates_the_same_tokens_from_a_converted_gguf(apr_binary, fixtures_folder, tmp_path, name):
    converted = aprnb.convert(fixtures_folder / "gguf" / f"{name}.gguf", tmp_path / "x.apr").path
    assert tool(apr_binary, "validate", converted)["passed"] is True
    same_tokens(apr_binary, converted, wrapped_by_the_tool=True)


def test_the_tool_runs_gpt2_converted_and_tuned(apr_binary, fixtures_folder, repository, tmp_path):
    """It knows Llama's names only. Its tokens are not compared: for its own file too they are not the reference's."""
    base = aprnb.convert(fixtures_folder / "sources" / "gpt2", tmp_path / "base.apr").path
    data, tuned = repository / "notebooks" / "ask-the-cow.jsonl", tmp_path / "tuned.apr"
    aprnb.finetune(base, data=data, output=str(tuned), method="lora", max_steps=1, learning_rate=1e-2)
    for path in (base, tuned):
        assert len(tool(apr_binary, "run", path, "--prompt", "Once", "--max-tokens", 4, "--no-gpu")["tokens"]) == 4


@pytest.mark.slow
def test_the_tool_runs_what_the_training_script_makes(apr_binary, repository, pocket_qwen3, tmp_path):
    """Two of its eighty epochs: no sense in the answers, the same kind of file otherwise."""
    run = subprocess.run(
        [sys.executable, str(repository / "notebooks" / "train_pocket.py"), str(tmp_path / "pocket"), "--epochs", "2"],
        capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert "2 epochs" in run.stdout
    ours, shipped = aprnb.open(tmp_path / "pocket.apr"), aprnb.open(pocket_qwen3)
    assert ours.architecture == shipped.architecture
    assert {e.name: e.shape for e in ours.tensors.values()} == {e.name: e.shape for e in shipped.tensors.values()}
    same_tokens(apr_binary, tmp_path / "pocket.apr")
