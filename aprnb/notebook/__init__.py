"""The notebook: magics, completion, live panel, interactive tables. Nothing below imports this."""

from aprnb.notebook.extension import load, unload

__all__ = ["load", "unload"]
