"""What the plan says of the rows: repeats, held-out rows like trained ones, lengths."""

from __future__ import annotations

import random
from typing import Any

import aprnb
from aprnb.tuning.data.health import look_at
from aprnb.tuning.data.row import AnyRow
from aprnb.tuning.data.rows import read_rows

LETTERS = random.Random(7)
WORDS = ["".join(LETTERS.choices("abcdefghijklmnoprstuvw", k=7)) for _ in range(900)]


def talks(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of random words behind the same task."""
    chosen = random.Random(seed)
    return [
        {
            "instruction": "Answer as briefly as you can, please: " + " ".join(chosen.sample(WORDS, 12)),
            "response": " ".join(chosen.sample(WORDS, 6)),
        }
        for _ in range(count)
    ]


def rows(values: Any) -> tuple[AnyRow, ...]:
    return read_rows(values).rows


def test_repeated_rows_are_counted_but_not_those_of_a_weight(tmp_path):
    found = talks(5)
    assert look_at(rows([*found, found[0], found[0]]), (), [1]).duplicates == 2
    path = tmp_path / "rows.csv"
    path.write_text("instruction,response\na,b\nc,d\n")
    assert look_at(read_rows({path: 3}).rows, (), [1]).duplicates == 0


def test_held_out_rows_that_are_nearly_trained_ones_are_named():
    train, other = talks(40), talks(10, seed=1)
    like = {"instruction": train[7]["instruction"].upper() + "!", "response": train[7]["response"] + " too"}
    health = look_at(rows(train), rows([*other, like]), [1])
    assert health.near_duplicates == 1
    assert health.first_near == "data row 11, like data row 8"
    assert list(health.warnings()) == [
        "1 held-out rows are nearly the same as rows to train on (data row 11, like data row 8): the held-out loss will"
        " look too good"
    ]


def test_what_all_rows_share_does_not_make_them_alike():
    task = "You are a careful assistant that answers every question in one short word. " * 20
    train = [{"system": task, **row} for row in talks(40)]
    held_out = [{"system": task, **row} for row in talks(10, seed=1)]
    assert look_at(rows(train), rows(held_out), [1]).near_duplicates == 0


def test_texts_and_tokens_are_compared_too():
    text = " ".join(WORDS[:30])
    tokens = list(range(100, 160))
    train = rows([{"text": text}, {"input_ids": tokens}])
    held_out = rows([{"text": text + " more"}, {"input_ids": [*tokens, 7]}])
    assert look_at(train, held_out, [1]).near_duplicates == 2


def test_the_plan_shows_lengths_as_a_histogram(pocket_qwen3):
    data = [{"instruction": "a", "response": "fish " * count} for count in (1, 1, 1, 2, 40)]
    plan = aprnb.plan(pocket_qwen3, data=[*data, data[0]], val_split=0)
    lengths = plan.to_json()["data"]["lengths"]
    assert sum(lengths["histogram"]) == 6
    assert lengths["histogram"][0] == 5
    assert lengths["most"] - lengths["least"] > 35
    assert f"{lengths['least']} to {lengths['most']} tokens" in str(plan)
    assert "█▁▁▁▁▁▁▃" in str(plan)
    assert "3 rows to train on repeat earlier ones" in str(plan)
