"""The Stop button of a run, and what the kernel answers to a page that asks for the run.

While a cell blocks the kernel, the kernel answers no widget, and a reloaded page shows "Loading widget…" until the cell
ends. The button is therefore HTML. It asks the Jupyter server to interrupt the kernel, as the toolbar's ■ does; a run
in the background, or one that is watched, is stopped through a comm: on a subshell where the kernel has them, so that a
busy kernel hears it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aprnb.display.html import escaped
from aprnb.notebook.page_script import page_script
from aprnb.notebook.screen import KernelName
from aprnb.tuning.training.events import STOPPING

_STYLE = "padding: 4px 14px; border: 1px solid #d64545; border-radius: 4px; background: none; color: inherit"

_NOT_SAVED = "<small>The saved notebook holds an earlier state: <code>{}</code> in a cell shows this in it too.</small>"


def stop_button(
    kernel: KernelName | None, panel: str, run: Path | None = None, *, is_asked: bool = False, is_pressed: bool = False
) -> str:
    """HTML of the button and the panel's script; without a known kernel, a sentence that says how to stop.

    `panel` is the display id of the panel, with which the ids of its other displays begin. A run is asked to stop where
    an interrupt would not reach it: in the background, and where it is watched. A page that is not connected to the run
    shows no button.
    """
    watch = watch_command(run)
    how = f"call stop() of aprnb.open_run({str(run)!r})" if is_asked else "interrupt the kernel"
    if kernel is None or not re.fullmatch(r"[\w.-]+", kernel.id):
        return f'<span role="status">To stop and save: {escaped(how)}. {escaped(watch)} shows the run anywhere.</span>'
    names: dict[str, str | bool] = {
        "KERNEL": kernel.id, "SESSION": kernel.session, "PANEL": panel, "TARGET": comm_target(panel),
        "STOPPING": STOPPING, "IS_ASKED": is_asked, "NOT_SAVED": _NOT_SAVED.format(escaped(watch)),
    }  # fmt: skip
    return (
        f'<span class="aprnb-connected" style="display: none">{_button(is_pressed)}</span>'
        f'<span class="aprnb-stored" style="opacity: 0.75">Not connected to this run: <code>{escaped(watch)}</code> '
        f"shows it and can stop it.</span><script>{page_script(names)}</script>"
    )


def watch_command(run: Path | None) -> str:
    """The magic that shows a run wherever its folder is; its name is not known before the plan."""
    return f"%apr_watch {shlex.quote(str(run)) if run else 'NAME.run'}"


def comm_target(panel: str) -> str:
    """The name of the comm by which a page asks for a panel."""
    return f"{panel}-asks"


def answer_pages(panel: str, show: Callable[[], object], stop: Callable[[], object] | None = None) -> None:
    """Lets a page ask for the present state of the panel, which calls `show`, or to stop its run, which calls `stop`.

    It lasts as long as the kernel, for a page may be opened after the run's end, or until it is called again.
    """
    from comm import get_comm_manager

    def opened(comm: Any, message: Any) -> None:
        asked = message["content"]["data"].get("ask")
        get_comm_manager().unregister_comm(comm)
        if asked == "stop" and stop:
            stop()
        else:
            show()

    get_comm_manager().register_target(comm_target(panel), opened)


def _button(is_pressed: bool) -> str:
    look, disabled, said = ("; opacity: 0.5", " disabled", STOPPING) if is_pressed else ("", "", "")
    return (
        f'<button type="button" class="aprnb-stop" style="{_STYLE}{look}"{disabled}>'
        '<span style="color: #d64545">■</span> Stop and save</button>'
        f' <span role="status" style="margin-left: 10px">{said}</span>'
    )
