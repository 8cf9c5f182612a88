"""Schedules and packed rows."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aprnb.errors import DataError
from aprnb.tuning.data.example import Example
from aprnb.tuning.data.packing import build_schedule, pack

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def schedule(lengths, epochs=2, batch_size=4, micro_batch_tokens=50, max_steps=None, seed=0):
    return build_schedule(lengths, [1] * len(lengths), epochs, batch_size, micro_batch_tokens, max_steps, seed)


@given(LENGTHS, st.integers(1, 3), st.integers(1, 9), st.integers(1, 90), st.integers(0, 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_every_example_comes_once_per_epoch_and_no_micro_batch_exceeds_the_bound(lengths, epochs, batch, bound, seed):
    found = schedule(lengths, epochs, batch, bound, None, seed)
    assert len(found.steps) == epochs * -(-len(lengths) // batch)
    for epoch in range(epochs):
        steps = [step for step in found.steps if step.epoch == epoch]
        seen = [index for step in steps for micro_batch in step.micro_batches for index in micro_batch]
        assert sorted(seen) == list(range(len(lengths)))
    for step in found.steps:
        assert sum(map(len, step.micro_batches)) <= batch
        assert step.tokens == sum(lengths[index] for micro_batch in step.micro_batches for index in micro_batch)
        for micro_batch in step.micro_batches:
            assert sum(lengths[index] for index in micro_batch) <= bound or len(micro_batch) == 1
    assert found == schedule(lengths, epochs, batch, bound, None, seed)


@given(LENGTHS, st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_max_steps_cuts_a_run_off_and_never_lengthens_it(lengths, max_steps):
    whole, cut = schedule(lengths), schedule(lengths, max_steps=max_steps)
    assert cut.steps == whole.steps[:max_steps]


def test_epochs_and_seeds_have_their_own_order():
    order = [step.micro_batches for step in schedule([1] * 30).steps]
    assert order[:8] != order[8:]
    assert order != [step.micro_batches for step in schedule([1] * 30, seed=1).steps]
    assert order != [step.micro_batches for step in schedule([1] * 30, seed=2**32).steps]


def test_the_order_is_the_same_under_every_version():
    # numpy's RandomState stream is frozen; these are its first values for words [0, 0, 0]
    [step] = build_schedule([1] * 5, [1] * 5, 1, 5, 1, None, 0).steps
    assert [index for micro_batch in step.micro_batches for index in micro_batch] == [0, 2, 4, 1, 3]


def test_rows_fill_micro_batches_first_fit():
    [step] = build_schedule([30, 20, 25, 10, 5], [2, 2, 2, 1, 1], 1, 5, 50, None, 0).steps
    # 30 opens the first; 25 the second; 20 joins the 30; 10 and 5 join the 25
    assert sorted(sorted(micro_batch) for micro_batch in step.micro_batches) == [[0, 1], [2, 3, 4]]
    assert (step.tokens, step.labelled_tokens) == (90, 8)


def test_no_examples_are_rejected():
    with pytest.raises(DataError):
        schedule([])


def example(ids, mask):
    return Example(np.array(ids, dtype=np.int32), np.array(mask, dtype=np.bool_), "row")


def test_packed_rows_restart_their_positions_and_label_no_first_token():
    packed = pack([example([1, 2, 3], [0, 0, 1]), example([9], [1]), example([4, 5], [1, 1])], (2, 0))
    assert packed.input_ids.tolist() == [4, 5, 1, 2, 3]
    assert packed.position_ids.tolist() == [0, 1, 0, 1, 2]
    assert packed.labels_mask.tolist() == [False, True, False, False, True]
    assert packed.document_lengths == (2, 3)
    assert (packed.input_ids.dtype, packed.position_ids.dtype, packed.labels_mask.dtype) == (
        np.int32,
        np.int32,
        np.bool_,
    )
