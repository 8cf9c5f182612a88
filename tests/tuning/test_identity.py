"""What must be equal for a run to be resumed: recipe, rows, chat template and their tokens and labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from aprnb.errors import UsageProblem
from aprnb.tuning import preparation
from aprnb.tuning.planning.identity import Identity, check_identity
from aprnb.tuning.planning.recipe import Recipe, RunOptions
from aprnb.tuning.preparation import Preparation, prepare

ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fly", "cow", "bird", "milk", "ox")]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def prepared(model: Path, **recipe: Any) -> Preparation:
    return prepare(model, Recipe(method="lora", val_split=0.2, **recipe), RunOptions(data=ROWS, device="cpu"))


def test_another_template_with_the_same_tokens_is_another_identity(pocket_qwen3: Path, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    found = []
    for text in (TEMPLATE, TEMPLATE, "{# other #}" + TEMPLATE):
        path.write_text(text)
        found.append(prepared(pocket_qwen3, chat_template=str(path)))
    rows = [[example.input_ids.tolist() for example in one.examples.examples] for one in found]
    assert rows[0] == rows[1] == rows[2]
    assert found[0].identity == found[1].identity
    assert found[0].identity.data != found[2].identity.data


def test_the_fingerprint_of_the_data_covers_tokens_and_labels(pocket_qwen3: Path) -> None:
    found = prepared(pocket_qwen3)
    first, *others = found.examples.examples

    def with_first(**changes: Any) -> str:
        examples = dataclasses.replace(found.examples, examples=(dataclasses.replace(first, **changes), *others))
        return preparation._data_fingerprint(found.rows, found.choice, (examples, found.held_out))

    assert with_first() == found.identity.data
    assert with_first(labels_mask=~first.labels_mask) != found.identity.data
    assert with_first(input_ids=first.input_ids + 1) != found.identity.data


def test_held_out_rows_are_not_trained_on(pocket_qwen3: Path) -> None:
    found = prepared(pocket_qwen3)
    assert found.held_out
    trained, held_out = ({one.origin for one in part.examples} for part in (found.examples, found.held_out))
    assert not trained & held_out
    assert len(trained | held_out) == len(ROWS) == len(found.examples.examples) + len(found.held_out.examples)
    scheduled = {index for step in found.schedule.steps for part in step.micro_batches for index in part}
    assert scheduled == set(range(len(found.examples.examples)))


def test_a_longer_run_may_differ_in_its_length_alone() -> None:
    saved = Identity({"epochs": 2, "rank": 4}, "rows", "base", total_steps=4)
    check_identity(saved, Identity({"epochs": 3, "rank": 4}, "rows", "base", 6), 4, "here")
    with pytest.raises(UsageProblem, match="--rank is 8; the saved run has 4"):
        check_identity(saved, Identity({"epochs": 3, "rank": 8}, "rows", "base", 6), 4, "here")
    with pytest.raises(UsageProblem, match="--epochs is 3; the saved run has 2"):
        check_identity(saved, Identity({"epochs": 3, "rank": 4}, "rows", "base", 6), 3, "here")
