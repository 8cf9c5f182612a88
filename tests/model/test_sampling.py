"""What is not given leaves the model's distribution as it is."""

from __future__ import annotations

from aprnb.model.sampling import Sampling, choose_sampling


def test_what_is_not_given_leaves_the_distribution_as_it_is() -> None:
    assert choose_sampling(None, 0.9, None, None, None, 5) == Sampling(1.0, 0.9, 0, 0.0, 1.0, 5)
    assert choose_sampling(0.5, None, None, None, None, 5) == Sampling(0.5, 1.0, 0, 0.0, 1.0, 5)
    assert choose_sampling(None, None, None, None, 1.3, 5) == Sampling(1.0, 1.0, 0, 0.0, 1.3, None)
