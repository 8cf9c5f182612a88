"""Opening a large vocabulary is fast: what is dear is computed on first use."""

from __future__ import annotations

import time

import pytest

import aprnb
from aprnb.tokenizer import merges
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.facts import read_facts
from aprnb_tests.tokenizers_of_families import sentencepiece


@pytest.fixture(scope="module")
def scored() -> dict[str, object]:
    """A SentencePiece vocabulary with scores and types, as GGUF files have it."""
    pieces = sentencepiece(("<unk>", "<s>", "</s>"), prepend=True, bos="<s>").get_vocab()
    texts = sorted(pieces, key=lambda text: pieces[text])
    return {
        "tokenizer.vocabulary": texts, "tokenizer.scores": [-float(at) for at in range(len(texts))],
        "tokenizer.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(texts) - 259)], "tokenizer.model": "llama",
    }  # fmt: skip


def test_the_card_does_not_split_pieces_and_the_tokenizer_does_it_once(scored, monkeypatch):
    calls = []
    split = merges.split_pieces
    monkeypatch.setattr(merges, "split_pieces", lambda *given: calls.append(given) or split(*given))
    card = describe_tokenizer(scored, "llama")
    assert (card["problem"], card["merges"], calls) == (None, None, [])
    facts = read_facts(scored)
    assert len(facts.merges) == len(list(facts.merges)) > 100
    assert len(calls) == 1


def test_merges_that_are_written_are_counted_on_the_card(pocket_qwen3):
    assert aprnb.inspect(pocket_qwen3).to_json()["tokenizer"]["merges"] == 568


@pytest.mark.real
@pytest.mark.parametrize("name", ["gemma-3-270m", "qwen2.5-coder-0.5b-instruct"])
def test_the_report_of_a_published_model_takes_less_than_half_a_second_of_processor_time(real_models, name):
    """0.25 to 0.3 s where nothing else runs; the best of several, since other processes share the caches."""
    path = real_models / f"{name}.gguf"
    took = []
    for _ in range(5):
        start = time.process_time()
        report = aprnb.inspect(path)
        took.append(time.process_time() - start)
    assert report.to_json()["tokenizer"]["problem"] is None
    assert min(took) < 0.5
