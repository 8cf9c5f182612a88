"""Hides other libraries' progress bars and messages while a model loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Turn off progress bars and notices about optional kernels; the loader's report comes back as data instead."""
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    kernels = logging.getLogger("bitsandbytes")
    kernel_level = kernels.level
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    kernels.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        kernels.setLevel(kernel_level)
        if bars:
            transformers_logging.enable_progress_bar()
