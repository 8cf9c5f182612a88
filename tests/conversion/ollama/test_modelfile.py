"""Modelfiles: what Ollama would read, and that its template writes what the checkpoint's own template writes.

Ollama itself is not run here: the file is read by the rules of its documentation, the template by those of Go.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

import aprnb
from aprnb import cli
from aprnb.conversion.ollama.go_template import go_string, go_template
from aprnb.conversion.ollama.modelfile import write_modelfile
from aprnb.conversion.ollama.turns import find_turns, turns_or_none
from aprnb.errors import OutputExists, UsageProblem
from aprnb.tokenizer.chat_template import TEMPLATES, Request, render_all
from aprnb.tokenizer.checkpoint_tokenizer import CheckpointTokenizer
from aprnb_tests.apr_bytes import with_metadata
from aprnb_tests.go_template import execute
from aprnb_tests.modelfile import read_modelfile
from aprnb_tests.safetensors_bytes import folder_of

QWEN25 = (
    "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' or m.role == 'assistant' %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (first if loop.first else '') }}"
    "{{ m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
OLD_GEMMA = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + GEMMA
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + (s if loop.first else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
THINKING = TEMPLATES["chatml"] + "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}assistant: "
KNOWN = {
    **TEMPLATES, "qwen2.5": QWEN25, "gemma": GEMMA, "old gemma": OLD_GEMMA, "phi3": PHI3, "mistral": MISTRAL,
    "thinking": THINKING, "plain": PLAIN,
    "hostile": TEMPLATES["chatml"].replace("'\n'", "'\"\"\" \\\\ {{ .System }} \u202e\u00e9\\n'"),
}  # fmt: skip
OTHER = {
    "numbered": "{% for m in messages %}{{ loop.index ~ m.role ~ m.content }}{% endfor %}",
    "last question first": "{{ messages[-1].content }}{% for m in messages %}{{ m.role + m.content }}{% endfor %}",
    "upper case": "{% for m in messages %}{{ m.role + ':' + m.content | upper }}{% endfor %}",
    "counting": "{{ messages | length }}{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}",
    "system last": "{% for m in messages | reverse %}{{ m.role + ':' + m.content }}{% endfor %}",
    "rejecting": "{{ raise_exception('no') }}",
    "broken": "{% if %}",
    "empty": "x",
}
TALKS = [
    ["What?"],
    ["Who are you?", "A model.", "Which one?"],
    ["a", "b", "c", "d", "e\n\nf"],
    ['{{ .Prompt }} \\n """', "{% raw %}", "ü 好"],
]


def tokenizer(template: str) -> CheckpointTokenizer:
    backend = Tokenizer(models.BPE())
    backend.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"])
    made = CheckpointTokenizer(backend, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def conversation(texts: list[str], system: str | None) -> list[dict[str, str]]:
    roles = [*([] if system is None else ["system"]), *["user", "assistant"] * len(texts)]
    texts = [*([] if system is None else [system]), *texts]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def by_ollama(template: str, messages: list[dict[str, str]]) -> str:
    """As Ollama's `template.Execute` calls it: the messages, and the system texts joined."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    capital = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    return execute(template, {"Messages": capital, "System": system})


@pytest.mark.parametrize("name", KNOWN)
def test_the_template_writes_what_the_checkpoints_own_writes(name):
    made = tokenizer(KNOWN[name])
    turns = find_turns(made)
    assert turns is not None
    template = go_template(turns)
    assert '"""' not in template
    asked = [conversation(texts, system) for texts in TALKS for system in (None, "Be brief.\nBe kind.")]
    wanted = render_all(made, [Request(messages, True) for messages in asked])
    assert sum(one.text is not None for one in wanted) >= len(TALKS)
    for messages, one in zip(asked, wanted, strict=True):
        if one.text is not None:
            assert by_ollama(template, messages) == one.text.removeprefix("<s>"), messages


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3_1"])
@pytest.mark.real
def test_published_templates_are_found(real_models, name):
    folder = real_models / "tokenizers" / name
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    named = {key: settings[key] for key in ("bos_token", "eos_token") if settings.get(key)}
    named = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
    made = CheckpointTokenizer(Tokenizer.from_file(str(folder / "tokenizer.json")), **named)
    made.chat_template = settings["chat_template"]
    template = go_template(find_turns(made))
    for texts in TALKS:
        messages = conversation(texts, "Be brief.")
        [wanted] = render_all(made, [Request(messages, True)])
        assert by_ollama(template, messages) == wanted.text.removeprefix(named.get("bos_token") or "")


@pytest.mark.parametrize("name", OTHER)
def test_a_template_with_other_rules_gives_no_template(name):
    assert turns_or_none(tokenizer(OTHER[name])) is None


def test_the_default_system_text_is_found():
    assert find_turns(tokenizer(QWEN25)).default_system == "You are Qwen."
    assert find_turns(tokenizer(TEMPLATES["chatml"])).default_system == ""


def test_go_strings_are_ascii_and_read_back():
    text = 'a"b\\c\n\t\r\0\u202eé好😀"""'
    quoted = go_string(text)
    assert quoted.isascii()
    assert '"""' not in quoted
    assert execute("{{ " + quoted.replace("{", "").replace("}", "") + " }}", {}) == text.replace("{", "").replace(
        "}", ""
    )


class Described:
    """A checkpoint whose metadata states a generation config, as conversions keep it."""

    def __init__(self, checkpoint: aprnb.formats.Checkpoint, generation: object) -> None:
        self._checkpoint = checkpoint
        self.metadata = {**checkpoint.metadata, "hf_generation_config": generation}

    def __getattr__(self, name: str) -> object:
        return getattr(self._checkpoint, name)


def written(pocket: Path, folder: Path, generation: object) -> dict[str, list[str]]:
    with aprnb.open(pocket) as checkpoint:
        write_modelfile(folder / "x.gguf", Described(checkpoint, generation), checkpoint.architecture, None, False)
    return read_modelfile(folder / "Modelfile")


def test_a_modelfile_is_written_next_to_the_gguf_file(pocket_qwen3, tmp_path):
    result = aprnb.convert(pocket_qwen3, tmp_path / "my model.gguf", modelfile=True)
    found = read_modelfile(tmp_path / "Modelfile")
    assert found["FROM"] == ["./my model.gguf"]
    assert found["PARAMETER stop"]
    assert 0 < int(found["PARAMETER num_ctx"][0]) <= 8192
    assert "TEMPLATE" in found or any("no TEMPLATE" in warning for warning in result.warnings)


def test_sampling_and_end_tokens_come_from_the_generation_config(pocket_qwen3, tmp_path):
    found = written(pocket_qwen3, tmp_path, {
        "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1,
        "eos_token_id": [0, 1], "max_length": 20,
    })  # fmt: skip
    named = {key.removeprefix("PARAMETER "): values for key, values in found.items() if key.startswith("PARAMETER")}
    assert named["temperature"] == ["0.7"]
    assert (named["top_p"], named["top_k"], named["min_p"]) == (["0.8"], ["20"], ["0.05"])
    assert named["repeat_penalty"] == ["1.1"]
    assert len(named["stop"]) == len(set(named["stop"])) >= 1


def test_the_modelfile_of_a_gguf_file_has_the_settings_that_the_file_was_made_with(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "model")
    generation = {"do_sample": True, "temperature": 0.7, "top_k": 20, "min_p": 0.05, "eos_token_id": [1]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    aprnb.convert(folder, tmp_path / "x.gguf", modelfile=True)
    first = (tmp_path / "Modelfile").read_text()
    (tmp_path / "again").mkdir()
    aprnb.convert(tmp_path / "x.gguf", tmp_path / "again" / "x.gguf", modelfile=True)
    assert (tmp_path / "again" / "Modelfile").read_text() == first
    assert "PARAMETER temperature 0.7\nPARAMETER top_k 20\nPARAMETER min_p 0.05\n" in first


@pytest.mark.parametrize(("stated", "stops"), [("###", ["###"]), (["###", "User:", 3, "###"], ["###", "User:"])])
def test_stop_strings_of_the_generation_config_are_stops(stated, stops, pocket_qwen3, tmp_path):
    found = written(pocket_qwen3, tmp_path, {"stop_strings": stated})
    assert found["PARAMETER stop"][-len(stops) :] == stops


def test_greedy_decoding_is_a_temperature_of_0(pocket_qwen3, tmp_path):
    found = written(pocket_qwen3, tmp_path, {"do_sample": False, "temperature": 0.7, "top_k": 20})
    assert found["PARAMETER temperature"] == ["0"]
    assert "PARAMETER top_k" not in found


@pytest.mark.parametrize(
    "generation",
    [None, [], "x", {"temperature": "0.7\nFROM evil"}, {"temperature": float("nan")}, {"top_p": 1e9}, {"top_k": True},
     {"top_k": 1.5}, {"eos_token_id": ["x", -1, 10**30, None, {}]}, {"eos_token_id": "</s>"}],
)  # fmt: skip
def test_values_that_make_no_sense_are_left_out(pocket_qwen3, tmp_path, generation):
    found = written(pocket_qwen3, tmp_path, generation)
    assert {"PARAMETER temperature", "PARAMETER top_p", "PARAMETER top_k"}.isdisjoint(found)
    assert found["FROM"] == ["./x.gguf"]


def test_an_existing_modelfile_stays_and_nothing_is_converted(pocket_qwen3, tmp_path):
    (tmp_path / "Modelfile").write_text("mine")
    with pytest.raises(OutputExists, match="Modelfile exists"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.gguf", modelfile=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Modelfile"]
    assert (tmp_path / "Modelfile").read_text() == "mine"
    aprnb.convert(pocket_qwen3, tmp_path / "x.gguf", modelfile=True, force=True)
    assert read_modelfile(tmp_path / "Modelfile")["FROM"] == ["./x.gguf"]


@pytest.mark.parametrize("name", ["x.apr", "x.safetensors", "folder"])
def test_only_a_gguf_file_has_a_modelfile(pocket_qwen3, tmp_path, name):
    with pytest.raises(UsageProblem, match="--modelfile for .*; expected a target that ends in .gguf"):
        aprnb.convert(pocket_qwen3, tmp_path / name, modelfile=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ['a"b.gguf', "a\nFROM x.gguf", " a.gguf", "\u202ea.gguf"])
def test_a_name_that_cannot_be_quoted_is_rejected(pocket_qwen3, tmp_path, name):
    with pytest.raises(UsageProblem, match="cannot be written into a Modelfile"):
        aprnb.convert(pocket_qwen3, tmp_path / name, modelfile=True)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_names_its_base(pocket_qwen3, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    with aprnb.open(pocket_qwen3) as checkpoint:
        rows, columns = checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].shape
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {f"{stem}A.weight": np.ones((1, columns), "f4"), f"{stem}B.weight": np.ones((rows, 1), "f4")}
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(UsageProblem, match="expected a --base that is a GGUF file"):
        aprnb.convert(tmp_path / "a", tmp_path / "x.gguf", base=pocket_qwen3, modelfile=True)
    aprnb.convert(pocket_qwen3, tmp_path / "base.gguf")
    (tmp_path / "out").mkdir()
    aprnb.convert(tmp_path / "a", tmp_path / "out" / "x.gguf", base=tmp_path / "base.gguf", modelfile=True)
    found = read_modelfile(tmp_path / "out" / "Modelfile")
    assert (found["FROM"], found["ADAPTER"]) == (["../base.gguf"], ["./x.gguf"])


def test_plan_and_result_name_the_modelfile(pocket_qwen3, tmp_path, capsys):
    target, named = str(tmp_path / "x.gguf"), str(tmp_path / "Modelfile")
    assert cli.main(["convert", str(pocket_qwen3), target, "--modelfile", "--plan"]) == 0
    assert named in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["convert", str(pocket_qwen3), target, "--modelfile"]) == 0
    shown = capsys.readouterr()
    assert named in shown.out
    assert named in shown.err  # the plan, before it is written
    result = aprnb.convert(pocket_qwen3, target, modelfile=True, force=True)
    assert (str(result.modelfile), result.to_json()["modelfile"]) == (named, named)
    assert named in result.to_html()
    plain = aprnb.convert(pocket_qwen3, tmp_path / "y.gguf")
    assert plain.modelfile is None
    assert not {"modelfile"} & (plain.to_json().keys() | plain.plan.to_json().keys())


def test_a_plan_of_a_modelfile_that_is_not_possible_is_an_error(pocket_qwen3, tmp_path):
    with pytest.raises(UsageProblem, match="--modelfile for"):
        aprnb.plan_conversion(pocket_qwen3, tmp_path / "x.apr", modelfile=True)


TOOLS = "{% if tools %}# Tools {{ tools | tojson }}{% endif %}"
SWITCH = "{% if enable_thinking is defined and not enable_thinking %}{{ '' }}{% endif %}"


@pytest.mark.parametrize(("added", "expected"), [
    ("", []), (TOOLS, ["tools"]), (SWITCH, ["enable_thinking"]), (TOOLS + SWITCH, ["tools, enable_thinking"]),
])  # fmt: skip
def test_what_a_template_takes_and_ollamas_does_not_is_a_warning(pocket_qwen3, tmp_path, added, expected):
    with aprnb.open(pocket_qwen3) as checkpoint:
        metadata = {**checkpoint.metadata, "chat_template": TEMPLATES["chatml"] + added}
    source = tmp_path / "x.apr"
    source.write_bytes(with_metadata(pocket_qwen3.read_bytes(), metadata))
    warnings = aprnb.convert(source, tmp_path / "x.gguf", modelfile=True).warnings
    assert "TEMPLATE" in read_modelfile(tmp_path / "Modelfile")
    found = [each for each in warnings if "the Modelfile's TEMPLATE is without" in each]
    assert len(found) == len(expected)
    assert all(f"without {names} of the chat template" in each for names, each in zip(expected, found, strict=True))


def test_a_template_by_the_rule_of_the_family_is_told(pocket_qwen3: Path, tmp_path: Path) -> None:
    written = aprnb.convert(pocket_qwen3, tmp_path / "x.gguf", modelfile=True)
    assert any("chat template: chatml, by the rule of the qwen3 family" in warning for warning in written.warnings)
