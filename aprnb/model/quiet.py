"""Hides other libraries' progress bars and messages while a model loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_loading() -> Iterator[list[str]]:
    """Turn off progress bars and notices about optional kernels.

    Yields the loader's reports, which are collected until the block ends: of an exception in the conversion of a tensor
    nothing else is left.
    """
    reports = _Reports(logging.WARNING)
    loader = logging.getLogger("transformers.modeling_utils")
    former = loader.level, loader.propagate
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    kernels = logging.getLogger("bitsandbytes")
    kernel_level = kernels.level
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    kernels.setLevel(logging.CRITICAL)
    loader.setLevel(logging.WARNING)
    loader.propagate = False
    loader.addHandler(reports)
    try:
        yield reports.texts
    finally:
        loader.removeHandler(reports)
        loader.setLevel(former[0])
        loader.propagate = former[1]
        transformers_logging.set_verbosity(level)
        kernels.setLevel(kernel_level)
        if bars:
            transformers_logging.enable_progress_bar()


class _Reports(logging.Handler):
    """Keeps the text of each message."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
