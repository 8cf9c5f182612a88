"""A whole run, from a real file to its artefacts, by each method; interrupted, resumed, rejected."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

import aprnb
import aprnb.errors
from aprnb import finetune, plan
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.results.history import WRITING_MODEL
from aprnb.tuning.training.events import Finished, Phase, Planned, StepEvent

COW = "notebooks/ask-the-cow.jsonl"
QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "rank": 8}


@pytest.fixture
def cow(repository):
    return repository / COW


@pytest.fixture(params=["lora", "qlora", "full"])
def tuned(request, pocket_qwen3, cow, tmp_path):
    options = QUICK | ({"method": request.param} if request.param != "full" else {"method": "full", "rank": None})
    return finetune(pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), **options)


def test_a_run_leaves_a_model_an_adapter_and_a_record(tuned, tmp_path):
    assert tuned.status == "finished"
    found = tuned.to_json()
    assert found["eval_loss"]["last"] < found["eval_loss"]["first"]
    assert found["steps"] == tuned.plan.total_steps == len(tuned.metrics)
    assert found["labelled_tokens"] == tuned.plan.labelled_tokens
    assert 0 < found["merge_check"]["max_abs_difference"] < 0.01 * found["merge_check"]["logit_range"]
    adapter = [] if tuned.plan.recipe.method == "full" else ["out.adapter"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*adapter, "out.apr", "out.run"]
    rows = [json.loads(line) for line in (tmp_path / "out.run" / "events.jsonl").read_text().splitlines()]
    steps, evals = ([row for row in rows if row["event"] == name] for name in ("step", "eval"))
    keys = ["step", "loss", "learning_rate", "grad_norm", "tokens", "labelled_tokens", "tokens_per_s", "elapsed_s"]
    assert list(tuned.metrics) == keys
    assert tuned.metrics.to_dict("records") == [{key: row[key] for key in keys} for row in steps]
    assert tuned.evaluations.to_dict("records") == [{key: row[key] for key in ("step", "eval_loss")} for row in evals]
    assert len(steps) == tuned.plan.total_steps
    assert tuned.evaluations["step"][0] == 0
    record = json.loads((tmp_path / "out.run" / "manifest.json").read_text())
    assert record["used"]["quantized_layers"] == (21 if tuned.plan.recipe.method == "qlora" else 0)
    assert record["used"]["trainable_parameters"] == tuned.plan.parameters_trainable
    assert record["used"]["attention"] == "sdpa"
    assert set(record["files"]) >= {"out.apr"}


def test_the_output_has_everything_of_the_base_and_its_own_metadata(pocket_qwen3, cow, tmp_path):
    finetune(pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), **QUICK)
    base, output = aprnb.open(pocket_qwen3), aprnb.open(tmp_path / "out.apr", verify=True)
    assert output.warnings == ()
    assert aprnb.check(output).ok
    assert output.architecture.fields() == base.architecture.fields()
    for key in ("tokenizer.vocabulary", "tokenizer.merges", "tokenizer.eos_token_id"):
        assert output.metadata[key] == base.metadata[key]
    assert "<|im_start|>" in output.metadata["chat_template"]
    assert output.metadata["rope_type"] == 2
    assert output.metadata["tied_embeddings"] is True
    assert output.tensors["lm_head.weight"].is_tied_placeholder
    assert output.raw("model.embed_tokens.weight") == base.raw("model.embed_tokens.weight")
    assert output.tensors["model.layers.0.mlp.up_proj.weight"].dtype.name == "BF16"


def test_a_quantised_base_gives_a_half_precision_model(real, cow, tmp_path):
    finetune(real("pocket-qwen3-int8"), data=cow, output=str(tmp_path / "out.apr"), max_steps=2, rank=4)
    dtypes = {entry.dtype.name for entry in aprnb.open(tmp_path / "out.apr").tensors.values()}
    assert dtypes == {"F16", "F32"}


def test_plain_peft_loads_the_adapter_in_a_fresh_process_with_the_same_answer(pocket_qwen3, cow, tmp_path):
    run = finetune(pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), **QUICK)
    _, tokenizer = aprnb.load(pocket_qwen3)
    ids = tokenizer("What is two plus one? Ask the cow.").input_ids
    with torch.no_grad():
        expected = run._model(torch.tensor([ids])).logits
    program = (
        "import sys, json, torch, aprnb; from peft import PeftModel\n"
        "model, _ = aprnb.load(sys.argv[1]); model = PeftModel.from_pretrained(model, sys.argv[2])\n"
        "print(json.dumps(model(torch.tensor([json.loads(sys.argv[3])])).logits.tolist()))"
    )
    arguments = [str(pocket_qwen3), str(tmp_path / "out.adapter"), json.dumps(ids)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-4)


def test_a_plan_writes_nothing(pocket_qwen3, cow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(plan(pocket_qwen3, data=cow), Plan)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_is_the_first_event_and_comes_before_any_weight_is_read(pocket_qwen3, cow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def stop(event):
        assert isinstance(event, Planned | Phase)
        if isinstance(event, Planned):
            raise InterruptedError(event.plan.total_steps)

    with pytest.raises(InterruptedError, match=str(plan(pocket_qwen3, data=cow).total_steps)):
        finetune(pocket_qwen3, data=cow, listener=stop)
    assert list(tmp_path.iterdir()) == []


def test_rows_may_be_a_list_or_a_dataframe_and_as_messages(pocket_qwen3):
    import pandas

    rows = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fish", "cow", "bird", "milk")]
    talks = [
        {
            "messages": [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["response"]},
            ]
        }
        for row in rows
    ]
    plans = [plan(pocket_qwen3, data=data) for data in (rows, pandas.DataFrame(rows), talks)]
    assert len({(found.rows, found.tokens, found.labelled_tokens) for found in plans}) == 1


def test_equal_seeds_give_equal_losses(pocket_qwen3, cow, tmp_path):
    losses = [
        list(finetune(pocket_qwen3, data=cow, output=str(tmp_path / name), max_steps=3).metrics["loss"])
        for name in ("a.apr", "b.apr")
    ]
    assert losses[0] == losses[1]


def test_existing_output_is_rejected_before_work_and_kept(pocket_qwen3, cow, tmp_path):
    (tmp_path / "out.apr").write_bytes(b"precious")
    heard = []
    with pytest.raises(aprnb.AprnbError, match=r"out\.apr exists"):
        finetune(pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), listener=heard.append)
    assert (tmp_path / "out.apr").read_bytes() == b"precious"
    assert heard == []


@pytest.mark.parametrize(
    ("options", "message", "exit_code"),
    [
        ({"model_size": "0.6B"}, r"means 600,000,000 \(600.00 M\) parameters; the file has 869,632", 5),
        ({"output": "nowhere/out.apr"}, "no folder nowhere", 3),
        ({"output": "out.bin"}, "ends in .apr", 2),
        ({"data": "missing.jsonl"}, "missing.jsonl", 3),
        ({"data": []}, "no rows", 5),
        ({"data": [{"instruction": "x"}]}, "response", 5),
        ({"method": "full", "quantize_nf4": True}, "4-bit weights cannot be trained", 2),
        ({"task": "classify"}, "classify", 2),
        ({"target_modules": ["q_porj"]}, "did you mean q_proj", 2),
    ],
)
def test_what_is_not_supported_is_an_error_that_names_it(
    pocket_qwen3, cow, tmp_path, monkeypatch, options, message, exit_code
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(aprnb.AprnbError, match=message) as caught:
        finetune(pocket_qwen3, **({"data": cow} | options))
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("function", [plan, finetune])
def test_a_keyword_that_does_not_exist_is_an_error_of_python(pocket_qwen3, cow, function):
    with pytest.raises(TypeError, match="rnak"):
        function(pocket_qwen3, data=cow, rnak=8)


@pytest.mark.parametrize("function", [plan, finetune])
def test_a_size_without_a_file_says_what_to_do(function):
    with pytest.raises(aprnb.AprnbError, match="8B without a checkpoint"):
        function(model_size="8B")


def test_an_interrupted_run_is_resumed_to_the_same_end(pocket_qwen3, cow, tmp_path):
    options = QUICK | {"epochs": 2, "data": cow, "eval_every": 2}
    whole = finetune(pocket_qwen3, output=str(tmp_path / "whole.apr"), **options)

    def press(event):
        if isinstance(event, StepEvent) and event.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    first = finetune(pocket_qwen3, output=str(tmp_path / "out.apr"), listener=press, **options)
    assert signal.getsignal(signal.SIGINT) is before
    assert (first.status, len(first.metrics)) == ("interrupted", 5)
    assert not (tmp_path / "out.apr").exists()
    with pytest.raises(aprnb.AprnbError, match=r"out\.run exists\n.*--resume"):
        finetune(pocket_qwen3, output=str(tmp_path / "out.apr"), **options)
    with pytest.raises(aprnb.AprnbError, match="--batch-size is 4; the saved run has 16"):
        finetune(pocket_qwen3, output=str(tmp_path / "out.apr"), resume=True, **(options | {"batch_size": 4}))
    second = finetune(pocket_qwen3, output=str(tmp_path / "out.apr"), resume=True, **options)
    assert second.status == "finished"
    assert list(second.metrics["loss"]) == list(whole.metrics["loss"])
    assert (tmp_path / "out.apr").exists()


def test_kill_9_keeps_the_last_saved_state(pocket_qwen3, cow, tmp_path):
    program = (
        "import os, sys; from aprnb.tuning.finetune import finetune; from aprnb.tuning.training.events import Saved\n"
        "def die(event):\n"
        "    if isinstance(event, Saved): os.kill(os.getpid(), 9)\n"
        "finetune(sys.argv[1], data=sys.argv[2], output=sys.argv[3], eval_every=2, epochs=1, listener=die)"
    )
    arguments = [str(pocket_qwen3), str(cow), str(tmp_path / "out.apr")]
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
    assert run.returncode == -9
    resumed = finetune(*arguments[:1], data=arguments[1], output=arguments[2], eval_every=2, epochs=1, resume=True)
    assert resumed.status == "finished"
    assert list(resumed.metrics["step"]) == list(range(1, resumed.plan.total_steps + 1))


def test_the_adapter_alone_can_be_asked_for_and_merged_later(pocket_qwen3, cow, tmp_path):
    events = []
    run = finetune(
        pocket_qwen3, data=cow, output=str(tmp_path / "a.apr"), adapter_only=True, max_steps=3, listener=events.append
    )
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert not (tmp_path / "a.apr").exists()
    merged = run.merge(tmp_path / "b.apr", output_dtype="F32")
    assert merged.changed == 21
    assert {entry.dtype.name for entry in aprnb.open(merged.path).tensors.values()} == {"F32"}


def test_an_adapter_that_changes_nothing_is_not_merged(pocket_qwen3, cow, tmp_path):
    run = finetune(pocket_qwen3, data=cow, output=str(tmp_path / "a.apr"), adapter_only=True, max_steps=1)
    from safetensors.torch import load_file, save_file

    weights = run.adapter / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(weights).items()}, weights)
    with pytest.raises(aprnb.AprnbError, match="changed no tensor"):
        run.merge(tmp_path / "b.apr")
    assert not (tmp_path / "b.apr").exists()


def test_an_adapter_of_another_model_is_rejected(pocket_qwen3, real, cow, tmp_path):
    run = finetune(pocket_qwen3, data=cow, output=str(tmp_path / "a.apr"), adapter_only=True, max_steps=1)
    with pytest.raises(
        aprnb.AprnbError, match=r"has model\.layers\.0\.mlp\.down_proj\.weight as .*; expected \[256, r\] · \[r, 512\]"
    ):
        aprnb.tuning.results.merge.merge(real("pocket-qwen2"), run.adapter, tmp_path / "b.apr")


def test_a_broken_base_is_rejected_before_the_first_step(pocket_qwen3, cow, tmp_path):
    """The final norm a hundred times too large: the file opens, its contract is green, it talks nonsense."""
    from aprnb.formats import TensorSource, write_apr
    from aprnb.formats.codecs import encode

    base = aprnb.open(pocket_qwen3)
    tensors = []
    for name, entry in base.tensors.items():
        if entry.size_bytes:
            scale = 100 if name == "model.norm.weight" else 1
            values = base[name] * scale
            tensors.append(TensorSource(name, entry.dtype, entry.shape, lambda v=values, d=entry.dtype: encode(v, d)))
    write_apr(tmp_path / "broken.apr", base.metadata, tensors)
    with pytest.raises(aprnb.AprnbError, match="on the answers and .* on the prompts"):
        finetune(tmp_path / "broken.apr", data=cow, output=str(tmp_path / "out.apr"))
    assert not (tmp_path / "out.apr").exists()


def test_evaluation_rows_that_are_trained_on_are_rejected(pocket_qwen3, cow):
    with pytest.raises(aprnb.AprnbError, match="96 of 96 evaluation rows are also training rows"):
        plan(pocket_qwen3, data=cow, eval_data=cow)


def test_force_leaves_nothing_of_an_earlier_run(pocket_qwen3, cow, tmp_path):
    options = {"data": cow, "output": str(tmp_path / "out.apr")}
    finetune(pocket_qwen3, max_steps=3, **options)
    finetune(pocket_qwen3, max_steps=1, force=True, **options)
    assert [path.name for path in (tmp_path / "out.run" / "states").iterdir()] == ["step-000001"]


def test_a_second_press_while_the_results_are_written_keeps_the_state(pocket_qwen3, cow, tmp_path):
    def press(event):
        if isinstance(event, Phase) and event.name == WRITING_MODEL:
            os.kill(os.getpid(), signal.SIGINT)

    options = {"data": cow, "output": str(tmp_path / "out.apr"), "max_steps": 3}
    with pytest.raises(aprnb.errors.Interrupted, match=r"stopped at once\n.*state of step 3 is saved"):
        finetune(pocket_qwen3, listener=press, **options)
    assert not (tmp_path / "out.apr").exists()
    assert finetune(pocket_qwen3, resume=True, **options).status == "finished"
    assert (tmp_path / "out.apr").exists()


def test_a_step_that_trains_other_labels_than_planned_is_rejected(pocket_qwen3, cow, tmp_path, monkeypatch):
    from aprnb.tuning.training import batches

    real = batches.answer_loss

    def one_short(*arguments):
        loss, count = real(*arguments)
        return loss, count - 1

    monkeypatch.setattr(batches, "answer_loss", one_short)
    with pytest.raises(aprnb.AprnbError, match="step 1 trained .* labelled tokens"):
        finetune(pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), max_steps=2)


def test_a_result_that_is_worse_than_the_base_is_a_warning(pocket_qwen3, cow, tmp_path):
    run = finetune(pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), max_steps=6, learning_rate=5.0)
    assert "the base model was better" in str(run)
    assert run.document().status == "warning"
