"""Values of fields: which ones are accepted, and as which numbers."""

from __future__ import annotations

import pytest

from aprnb.architecture.evidence.field_values import checked
from aprnb.errors import ArchitectureError
from aprnb.formats.gguf.values import shortest

LARGEST = 3.4028234663852886e38  # (2 - 2**-23) * 2**127, the largest float32


@pytest.mark.parametrize("value", [4294967296, 4294967296.0, 2**24, 1e10, 10_000, 0.5, LARGEST])
def test_a_number_that_float32_holds_exactly_stays_as_it_is(value):
    assert checked("rope_theta", value, "config rope_theta") == value


@pytest.mark.parametrize("double", [9.999999974752427e-07, 1e-06])  # the float32 nearest to 1e-06, and the decimal
def test_a_float32_and_the_decimal_that_it_stands_for_are_equal(double):
    assert checked("rms_norm_eps", double, "config rms_norm_eps") == 1e-06


def test_a_config_and_a_gguf_file_agree_on_a_large_whole_number():
    # str(numpy.float32(2**32)) is 4294967300.0
    assert shortest(4294967296.0) == checked("rope_theta", 4294967300.0, "metadata rope_theta") == 4294967296


@pytest.mark.parametrize("value", [5e-324, 7e-46, 3.5e38, 10**400])  # half the smallest float32 is 7.006e-46
def test_a_number_that_float32_cannot_hold_is_rejected(value):
    with pytest.raises(ArchitectureError, match="expected a positive number that float32 can hold"):
        checked("rms_norm_eps", value, "config rms_norm_eps")


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), True, "1"])
def test_what_is_not_a_positive_number_is_rejected(value):
    with pytest.raises(ArchitectureError, match="expected a positive number$"):
        checked("rms_norm_eps", value, "config rms_norm_eps")
