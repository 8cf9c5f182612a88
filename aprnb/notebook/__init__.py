"""The notebook: magics, completion, live panel, interactive tables. No other room imports this one."""

from aprnb.notebook.extension import load, unload

__all__ = ["load", "unload"]
