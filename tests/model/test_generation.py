"""Where generation stops and how it samples, judged by transformers on the same model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import aprnb
from aprnb.errors import AprnbError, ChatTemplateError, UsageProblem
from aprnb.model.answer import Generation
from aprnb.model.generate_file import generate_file
from aprnb.model.prompt import read_prompt
from aprnb.model.sampling import choose_sampling
from aprnb_tests.rewrite import with_metadata

ASKED = "Spell cow."
IM_END, ENDOFTEXT = 826, 824


@pytest.fixture(scope="module")
def loaded(pocket_qwen3: Path) -> tuple[Any, Any]:
    return aprnb.load(pocket_qwen3, device="cpu")


def test_an_answer_says_at_which_token_it_stopped(loaded: Any) -> None:
    found = aprnb.generate(*loaded, ASKED)
    assert (found.text, found.stop_reason, found.stop_id, found.stop_text) == ("c o w", "eos", IM_END, "<|im_end|>")
    assert found.ids[-1] == IM_END
    assert str(found) == "c o w"


def test_an_answer_that_is_cut_says_so(loaded: Any) -> None:
    found = aprnb.generate(*loaded, ASKED, max_new_tokens=2)
    assert (found.text, len(found.ids), found.stop_reason, found.stop_id) == ("c o", 2, "length", None)
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({"hf_generation_config": {"eos_token_id": [IM_END, 258]}}, 258),
        ({"hf_config": {"eos_token_id": [258]}}, 258),
        ({"tokenizer.eot_token_id": 258}, 258),
        ({"tokenizer.eom_token_id": 331}, 331),
        ({"hf_generation_config": {"eos_token_id": 10**9}}, IM_END),
    ],
    ids=[
        "generation config",
        "config",
        "end of turn in GGUF",
        "end of message in GGUF",
        "an id outside the vocabulary",
    ],
)
def test_generation_stops_at_every_end_token_that_the_checkpoint_names(
    pocket_qwen3: Path, tmp_path: Path, changes: dict[str, Any], stops: int
) -> None:
    """The answer is 66 258 331 826 ("c", " o", " w", "<|im_end|>"), as the source's own model says."""
    metadata = {**aprnb.open(pocket_qwen3).metadata, **changes}
    found = aprnb.generate(*aprnb.load(with_metadata(pocket_qwen3, tmp_path / "x.apr", metadata)), ASKED)
    whole = [66, 258, 331, IM_END]
    assert list(found.ids) == whole[: whole.index(stops) + 1]
    assert (found.stop_reason, found.stop_id) == ("eos", stops)


def test_generation_stops_at_the_end_tokens_of_a_config_that_is_given(pocket_qwen3: Path, tmp_path: Path) -> None:
    config = {**aprnb.open(pocket_qwen3).architecture.as_config(), "eos_token_id": [258, 9]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for given in (config, tmp_path / "config.json"):
        found = [aprnb.generate(*aprnb.load(pocket_qwen3, "cpu", config=given), ASKED), asked(pocket_qwen3, given)]
        assert [(answer.text, answer.stop_reason, answer.stop_id) for answer in found] == [("c", "eos", 258)] * 2


def asked(path: Path, config: Any = None) -> Generation:
    """The answer of `aprnb generate`."""
    greedy = choose_sampling(None, None, None, None, None, None)
    return generate_file(path, ASKED, greedy, config=config, device="cpu", on_text=str, on_phase=str)


TURN = "{% for m in messages %}<start>{{ m.role }}\n{{ m.content }}END{% endfor %}<start>assistant\n"


@pytest.mark.parametrize(
    ("template", "eos", "ids", "expected"),
    [
        (TURN.replace("END", "<end_of_turn>\n"), "<eos>", [1, 106], {"<eos>", "<end_of_turn>", 1, 106}),  # Gemma
        (
            TURN.replace("END", "<|end|>\n"),
            "<|endoftext|>",
            [7, 10, 11],
            {"<|endoftext|>", "<|end|>", 7, 10, 11},
        ),  # Phi-3
        (TURN.replace("END", "<|eot_id|>"), "<|eot_id|>", [12, 13, 14], {"<|eot_id|>", 12, 13, 14}),  # Llama 3.1
        (TURN.replace("END", "\n\n"), "</s>", None, {"</s>"}),
    ],
    ids=["gemma", "phi3", "llama3.1", "neither"],
)
def test_a_folder_stops_at_every_id_that_it_names_and_at_the_templates_end_of_turn(
    pocket_qwen3: Path, tmp_path: Path, monkeypatch: Any, template: str, eos: str, ids: Any, expected: set[Any]
) -> None:
    folder = aprnb.convert(pocket_qwen3, tmp_path / "folder").path
    monkeypatch.setattr("aprnb.model.build.build_model", lambda *_: None)
    monkeypatch.setattr("aprnb.model.generation.run_prompt", lambda _, tokenizer, prompt, *__: (tokenizer, prompt))
    tokens = json.loads((folder / "tokenizer.json").read_text())
    names = [name for name in (eos, "<end_of_turn>", "<|end|>", "<|eot_id|>") if name != "<|endoftext|>"]
    tokens["added_tokens"] += [
        {**tokens["added_tokens"][-1], "id": 827 + number, "content": name}
        for number, name in enumerate(dict.fromkeys(names))
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": eos}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    (folder / "chat_template.jinja").write_text(template)
    tokenizer, prompt = asked(folder)
    number_of = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    assert prompt.end_ids == {number_of.get(name, name) for name in expected} | {IM_END}  # of config.json


def test_generation_stops_at_the_end_of_turn_of_the_template(loaded: Any) -> None:
    model, tokenizer = loaded
    before = tokenizer.eos_token
    tokenizer.eos_token = "<|endoftext|>"
    try:
        chat = aprnb.generate(model, tokenizer, ASKED)
        raw = aprnb.generate(model, tokenizer, chat.prompt, raw=True)
    finally:
        tokenizer.eos_token = before
    assert (chat.stop_reason, chat.stop_id) == (raw.stop_reason, raw.stop_id) == ("eos", IM_END)


@pytest.mark.parametrize(("stop", "text"), [(" w", "c o"), (["x", "o"], "c "), ("c", ""), ("c o w", "")])
def test_a_stop_text_is_cut_off(loaded: Any, stop: Any, text: str) -> None:
    found = aprnb.generate(*loaded, ASKED, stop=stop)
    assert (found.text, found.stop_reason) == (text, "stop")
    assert found.stop_text in stop


def test_a_special_token_is_a_stop_text_too(loaded: Any) -> None:
    found = aprnb.generate(*loaded, ASKED, stop="<|im_end|>")
    assert (found.text, found.stop_reason, found.stop_id, found.stop_text) == ("c o w", "stop", IM_END, "<|im_end|>")


def test_parts_of_the_text_come_as_they_are_certain(loaded: Any) -> None:
    parts: list[str] = []
    found = aprnb.generate(*loaded, ASKED, on_text=parts.append)
    assert parts == ["c", " o", " w"]
    assert found.text == "".join(parts)


def test_an_interrupt_keeps_the_text_so_far(loaded: Any) -> None:
    parts: list[str] = []

    def press(part: str) -> None:
        parts.append(part)
        if len(parts) == 2:
            raise KeyboardInterrupt

    found = aprnb.generate(*loaded, ASKED, on_text=press)
    assert (found.text, found.stop_reason, found.exit_code) == ("c o", "interrupted", 130)
    assert not loaded[0].training


def test_sampling_draws_the_tokens_that_transformers_draws(loaded: Any) -> None:
    model, tokenizer = loaded
    settings: dict[str, Any] = {"temperature": 5.0, "top_p": 0.95, "top_k": 40, "min_p": 0.001, "max_new_tokens": 12}
    settings["repetition_penalty"] = 1.2
    found = [aprnb.generate(model, tokenizer, ASKED, seed=seed, **settings) for seed in (5, 6)]
    ids = tokenizer(found[0].prompt, add_special_tokens=False, return_tensors="pt").input_ids
    config = GenerationConfig(do_sample=True, eos_token_id=IM_END, pad_token_id=0, **settings)
    theirs = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        theirs.append(model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config))
    assert [list(one.ids) for one in found] == [one[0, ids.shape[1] :].tolist() for one in theirs]
    assert found[0].ids != found[1].ids


def test_sampling_repeats_with_its_seed_and_leaves_torch_as_it_was(loaded: Any) -> None:
    state = torch.random.get_rng_state()
    first = aprnb.generate(*loaded, ASKED, temperature=5.0, max_new_tokens=12)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.seed is not None
    assert aprnb.generate(*loaded, ASKED, temperature=5.0, max_new_tokens=12, seed=first.seed).ids == first.ids
    others = {aprnb.generate(*loaded, ASKED, temperature=5.0, max_new_tokens=12).ids for _ in range(3)}
    assert len(others) > 1


def test_sampling_settings_of_the_model_are_not_used(loaded: Any) -> None:
    model, tokenizer = loaded
    before = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, top_k=3, top_p=0.1, min_p=0.9, repetition_penalty=1.9, typical_p=0.2
    )
    try:
        greedy = aprnb.generate(model, tokenizer, ASKED)
        hot = aprnb.generate(model, tokenizer, ASKED, temperature=5.0, seed=1, max_new_tokens=12)
    finally:
        model.generation_config = before
    assert (greedy.text, greedy.seed) == ("c o w", None)
    assert hot.ids == aprnb.generate(model, tokenizer, ASKED, temperature=5.0, seed=1, max_new_tokens=12).ids


@pytest.mark.parametrize("temperature", [0, 1e-30])
def test_a_temperature_of_zero_is_greedy(loaded: Any, temperature: float) -> None:
    assert aprnb.generate(*loaded, ASKED, temperature=temperature, top_p=0.5) == aprnb.generate(*loaded, ASKED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1}, "--temperature -1; expected a number from 0 to 100"),
        ({"temperature": float("nan")}, "--temperature nan; expected a number"),
        ({"top_p": 1.5}, "--top-p 1.5; expected a number from 0 to 1"),
        ({"top_k": 0}, "--top-k 0; expected a whole number"),
        ({"min_p": 2}, "--min-p 2; expected a number from 0 to 1"),
        ({"repetition_penalty": 0}, "--repetition-penalty 0; expected a number from"),
        ({"seed": -1}, "--seed -1; expected a whole number"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0; expected a whole number of at least 1"),
        ({"stop": [""]}, "--stop ''; expected a text that is not empty"),
        ({"stop": "\n<|im_start|>"}, "contains the special token <|im_start|>"),
        ({"raw": True, "system": "Be brief."}, "--system with --raw; expected one of them"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_a_usage_problem(
    loaded: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageProblem) as caught:
        aprnb.generate(*loaded, ASKED, **arguments)
    assert message in str(caught.value)


def test_a_prompt_longer_than_the_context_is_rejected_with_both_numbers(loaded: Any) -> None:
    model, tokenizer = loaded
    limit = model.config.max_position_embeddings
    prompt = "cow " * limit
    length = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    with pytest.raises(UsageProblem, match=f"the prompt has {length:,} tokens; expected fewer than .* {limit:,}"):
        aprnb.generate(model, tokenizer, prompt, raw=True)


def test_an_answer_without_a_given_length_ends_with_the_context(loaded: Any) -> None:
    model, tokenizer = loaded
    limit = model.config.max_position_embeddings
    prompt = tokenizer.decode(tokenizer("cow " * limit, add_special_tokens=False).input_ids[: limit - 3])
    length = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    assert limit - 5 < length < limit
    found = aprnb.generate(model, tokenizer, prompt, raw=True)
    assert length + len(found.ids) <= limit
    with pytest.raises(UsageProblem, match=f"give --max-new-tokens {limit - length} or less"):
        aprnb.generate(model, tokenizer, prompt, raw=True, max_new_tokens=limit)


def test_a_system_message_that_the_template_leaves_out_is_an_error(pocket_qwen3: Path) -> None:
    template = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    model, tokenizer = aprnb.load(pocket_qwen3, device="cpu", chat_template=template)
    with pytest.raises(ChatTemplateError, match="does not use the system message"):
        aprnb.generate(model, tokenizer, ASKED, system="Be brief.")


def test_logits_that_are_no_numbers_are_an_error(pocket_qwen3: Path) -> None:
    model, tokenizer = aprnb.load(pocket_qwen3, device="cpu")
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(AprnbError, match="logits are NaN"):
        aprnb.generate(model, tokenizer, ASKED)


def test_nf4_weights_are_decoded_once_with_the_same_result(pocket_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes
    import psutil

    model, tokenizer = aprnb.load(pocket_qwen3, device="cpu", quantize="nf4")
    calls = 0
    multiply = bitsandbytes.matmul_4bit

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return multiply(*arguments, **named)

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", counted)
    found = aprnb.generate(model, tokenizer, ASKED)
    assert calls == 0
    assert "decoded once" in found.notices[0]
    sizes = [
        layer.in_features * layer.out_features for layer in model.modules() if type(layer).__name__ == "Linear4bit"
    ]
    assert f"({4 * sum(sizes) / 2**20:.2f} MiB of memory)" in found.notices[0]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9))
    again = aprnb.generate(model, tokenizer, ASKED)
    assert calls > 0
    assert "each token decodes the NF4 weights again" in again.notices[0]
    assert again.ids == found.ids


def test_a_raw_prompt_begins_with_the_token_that_the_tokenizer_puts_before_a_text(loaded: Any) -> None:
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    plain, start = loaded[1], "<|im_start|>"
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    number = backend.token_to_id(start)
    backend.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, number)])
    dressed = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=start)
    for text in ("hi", f"{start}hi"):
        found = read_prompt(dressed, text, raw=True, system=None, stop=())
        assert found.ids == (number, *plain.encode("hi", add_special_tokens=False))
    assert read_prompt(plain, "hi", raw=True, system=None, stop=()).ids == tuple(plain.encode("hi"))
