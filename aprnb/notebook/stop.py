"""The Stop button of a run, and what keeps the panel live after the page was reloaded.

While a cell blocks the kernel, the kernel answers no widget, and a reloaded page shows "Loading widget…" until the cell
ends. The button is therefore HTML. It asks the Jupyter server to interrupt the kernel, as the toolbar's ■ does; a run
in the background, or one that is watched, is stopped through a comm: on a subshell where the kernel has them, so that a
busy kernel hears it.

JupyterLab forgets the displays of a running cell when its page is reloaded. The script then connects to the kernel's
messages (jupyter-server.readthedocs.io, "WebSocket kernel wire protocols") and puts the updates in their places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aprnb.display.html import escaped
from aprnb.tuning.training.events import STOPPING

_STYLE = "padding: 4px 14px; border: 1px solid #d64545; border-radius: 4px; background: none; color: inherit"
# The page contains the server's base URL and, on hubs, the token; the cookie protects from requests of other sites.
_PAGE = """
const config = document.getElementById('jupyter-config-data'), page = config && JSON.parse(config.textContent);
const session = Math.random().toString(36).slice(2);
const connect = () => new WebSocket(location.origin.replace(/^http/, 'ws') + page.baseUrl + 'api/kernels/' + KERNEL +
  '/channels?session_id=' + session + (page.token ? '&token=' + page.token : ''));
"""
_PRESSED = """
const button = this, say = text => { button.nextElementSibling.textContent = text; };
if (!page) { say('use the interrupt button of the editor'); return; }
const failed = why => { button.disabled = false; say(why + '; use the interrupt button of the toolbar'); };
button.disabled = true;
say(STOPPING);
"""
_INTERRUPT = """
const headers = { 'X-XSRFToken': (document.cookie.match(/(?:^|; )_xsrf=([^;]*)/) || ['', ''])[1] };
if (page.token) headers.Authorization = 'token ' + page.token;
fetch(page.baseUrl + 'api/kernels/' + KERNEL + '/interrupt', { method: 'POST', credentials: 'same-origin', headers })
  .then(answer => { if (!answer.ok) throw new Error('the server answered ' + answer.status); })
  .catch(problem => failed(problem.message));
"""
_ASK = """
const socket = connect();
let asked = false;
const send = (channel, type, content, subshell) => socket.send(JSON.stringify({
  channel, content, parent_header: {}, metadata: {}, buffers: [],
  header: { msg_id: session + type, msg_type: type, session, username: '', date: new Date().toISOString(),
    version: '5.5', ...(subshell ? { subshell_id: subshell } : {}) } }));
const ask = subshell => { if (asked) return; asked = true;
  send('shell', 'comm_open', { comm_id: session, target_name: TARGET, data: {} }, subshell); };
socket.onopen = () => { send('control', 'create_subshell_request', {}); setTimeout(ask, 1500); };
socket.onmessage = ({ data }) => { const message = JSON.parse(data);
  if (message.header.msg_type === 'create_subshell_reply') ask(message.content.subshell_id); };
socket.onerror = () => failed('the kernel does not answer');
setTimeout(() => socket.close(), 10000);
"""
_FOLLOW = """
const find = id => document.getElementById(id), running = window.aprnbPanels = window.aprnbPanels || {};
const follow = () => {
  const socket = running[PANEL] = connect();
  socket.onmessage = ({ data }) => {
    const { header, content } = JSON.parse(data);
    if (!header || header.msg_type !== 'update_display_data') return;
    const id = content.transient.display_id, place = id.startsWith(PANEL) && find(id);
    if (!place) return;
    const png = content.data['image/png'];
    place.innerHTML = png ? '<img src="data:image/png;base64,' + png + '">' : content.data['text/html'] || '';
    if (id === PANEL + '-stop' && !place.innerHTML) socket.close();
  };
  socket.onerror = () => { const place = find(PANEL + '-stop'); if (place) place.textContent = GONE; };
};
setTimeout(() => {
  const place = find(PANEL);
  if (place && page && !running[PANEL]) setTimeout(() => { if (find(PANEL) === place) follow(); }, 3000);
}, 1000);
"""


def stop_button(kernel_id: str | None, panel: str, run: Path | None = None, *, is_asked: bool = False) -> str:
    """HTML of the button and the script; without a known kernel, a sentence that says how to stop.

    `panel` is the display id of the panel, with which the ids of its other displays begin. A run is asked to stop where
    an interrupt would not reach it: in the background, and where it is watched.
    """
    watch = f"%apr_watch {run}" if run else "%apr_watch NAME.run"
    how = f"call stop() of aprnb.open_run({str(run)!r})" if is_asked else "interrupt the kernel"
    if kernel_id is None or not re.fullmatch(r"[\w.-]+", kernel_id):
        return f'<span role="status">To stop and save: {escaped(how)}. {escaped(watch)} shows the run anywhere.</span>'
    gone = f"The kernel of this run does not answer. {watch} shows how it went on."
    names = {"KERNEL": kernel_id, "PANEL": panel, "TARGET": stop_target(panel), "STOPPING": STOPPING, "GONE": gone}
    pressed = _script(_PAGE + _PRESSED + (_ASK if is_asked else _INTERRUPT), names)
    follow = _script("(() => {" + _PAGE + _FOLLOW + "})();", names)
    return (
        f'<button type="button" class="aprnb-stop" style="{_STYLE}" onclick="{escaped(pressed)}">'
        '<span style="color: #d64545">■</span> Stop and save</button>'
        f' <span role="status" style="margin-left: 10px"></span><script>{follow}</script>'
    )


def pressed_button() -> str:
    """HTML of the button after it was pressed."""
    return (
        f'<button type="button" class="aprnb-stop" style="{_STYLE}; opacity: 0.5" disabled>'
        '<span style="color: #d64545">■</span> Stop and save</button>'
        f' <span role="status" style="margin-left: 10px">{STOPPING}</span>'
    )


def stop_target(panel: str) -> str:
    """The name of the comm that stops a run in the background."""
    return f"{panel}-asks-to-stop"


def obey(panel: str, stop: Callable[[], object]) -> Callable[[], None]:
    """Lets the button of a run in the background call `stop`, until the function that is returned is called."""
    from comm import get_comm_manager

    def opened(_comm: Any, _message: Any) -> None:
        stop()

    get_comm_manager().register_target(stop_target(panel), opened)

    def end() -> None:
        get_comm_manager().unregister_target(stop_target(panel), opened)

    return end


def _script(text: str, names: dict[str, str]) -> str:
    """One line of JavaScript with the names replaced by their texts, which end no script element."""
    words = {name: json.dumps(value).replace("</", "<\\/") for name, value in names.items()}
    return re.sub("|".join(rf"\b{name}\b" for name in words), lambda found: words[found[0]], " ".join(text.split()))
