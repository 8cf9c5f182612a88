"""The loss equals cross entropy over labelled tokens, in chunks and in packed rows alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from aprnb.tuning.training import loss as loss_module
from aprnb.tuning.training.batches import Batches, fit
from aprnb.tuning.training.lora import attach
from aprnb.tuning.training.loss import answer_loss, chunked_cross_entropy, hidden_states
from aprnb_tests.tiny import CPU, tiny_examples, tiny_model, tiny_recipe


@pytest.fixture
def batches() -> Batches:
    return Batches(tiny_model(), CPU, 256, torch.float32)


def test_logits_of_a_packed_row_equal_those_of_each_document_alone(batches: Batches) -> None:
    model, examples = tiny_model(), tiny_examples()
    ids, positions, _ = batches.row(examples, (3, 0, 7))
    with torch.no_grad():
        packed = hidden_states(model, ids, positions)
        alone = torch.cat([hidden_states(model, *batches.row(examples, (index,))[:2]) for index in (3, 0, 7)])
    # float32 sums in another order: differences stay near its precision, a document seen by another moves them by ~1.
    assert (packed - alone).abs().max().item() < 1e-5


def test_the_sum_equals_cross_entropy_over_the_labelled_tokens_of_each_document(batches: Batches) -> None:
    model, examples = tiny_model(), tiny_examples()
    expected, labelled = 0.0, 0
    for example in examples.examples[:3]:
        ids = torch.from_numpy(example.input_ids.astype(np.int64))
        wanted = torch.where(torch.from_numpy(example.labels_mask), ids, -100)
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        expected += cross_entropy(logits[:-1], wanted[1:], ignore_index=-100, reduction="sum").item()
        labelled += int((wanted[1:] != -100).sum())
    found, count = answer_loss(model, *batches.row(examples, (0, 1, 2)))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert count == labelled


def test_micro_batches_are_cut_only_where_they_exceed_the_limit() -> None:
    lengths = [30, 20, 1, 90, 5]
    assert fit([(0, 1), (2, 3, 4)], lengths, 50) == [(0, 1), (2,), (3,), (4,)]
    assert fit([(0, 1), (2, 3, 4)], lengths, 49) == [(0,), (1,), (2,), (3,), (4,)]


def test_a_first_token_is_never_predicted_from_the_document_before(batches: Batches) -> None:
    ids, positions, labelled = batches.row(tiny_examples(), (0, 1))
    everything = torch.ones_like(labelled)
    _, count = answer_loss(tiny_model(), ids, positions, everything)
    assert count == len(ids) - 2


def test_chunks_give_the_same_loss_and_gradients_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False)
    targets = torch.randint(0, 50, (37,))
    hidden = torch.randn(37, 16)

    def run(positions: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        monkeypatch.setattr(loss_module, "chunk_positions", lambda _: positions)
        head.zero_grad()
        inputs = hidden.clone().requires_grad_()
        total = chunked_cross_entropy(inputs, head, targets)
        total.backward()
        assert inputs.grad is not None
        assert head.weight.grad is not None
        return total.item(), inputs.grad.clone(), head.weight.grad.clone()

    one, chunked = run(1000), run(5)
    assert chunked[0] == pytest.approx(one[0], rel=1e-6)
    torch.testing.assert_close(chunked[1], one[1])
    torch.testing.assert_close(chunked[2], one[2])


def test_the_loss_of_16_bit_logits_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False).bfloat16()
    hidden, targets = torch.randn(37, 16).bfloat16(), torch.randint(0, 50, (37,))
    with torch.no_grad():
        wanted = cross_entropy(head(hidden).double(), targets, reduction="sum").item()
        assert chunked_cross_entropy(hidden, head, targets).item() == pytest.approx(wanted, rel=1e-6)


def test_no_logits_are_kept_for_the_backward_pass() -> None:
    head = torch.nn.Linear(16, 50, bias=False)
    hidden = torch.randn(37, 16, requires_grad=True)
    kept: list[tuple[int, ...]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        chunked_cross_entropy(hidden, head, torch.randint(0, 50, (37,))).backward()
    assert (37, 50) not in kept


def test_full_logits_never_exist(monkeypatch: pytest.MonkeyPatch, batches: Batches) -> None:
    monkeypatch.setattr(loss_module, "chunk_positions", lambda _: 4)
    model = attach(tiny_model(), tiny_recipe())
    rows_seen: list[int] = []
    model.get_base_model().lm_head.register_forward_hook(lambda module, inputs, output: rows_seen.append(len(output)))
    loss, count = answer_loss(model, *batches.row(tiny_examples(), (0, 1, 2, 3)))
    loss.backward()
    assert count > 8
    assert max(rows_seen) == 4
