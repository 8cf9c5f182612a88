"""The Stop button of a cell that is still running.

While a cell blocks the kernel, ipykernel 7.4 handles no widget messages, so the button does not use a comm: it asks the
Jupyter server to interrupt the kernel, as the toolbar's ■ does. On SIGINT the training loop saves its state and ends.
"""

from __future__ import annotations

import json

from aprnb.display.html import escaped

# The page contains the server's base URL and, on hubs, the token; the cookie protects from requests of other sites.
_PRESSED = """
const button = this, say = text => { button.nextElementSibling.textContent = text; };
const config = document.getElementById('jupyter-config-data');
if (!config) { say('use the interrupt button of the editor'); return; }
const page = JSON.parse(config.textContent);
const headers = { 'X-XSRFToken': (document.cookie.match(/(?:^|; )_xsrf=([^;]*)/) || ['', ''])[1] };
if (page.token) headers.Authorization = 'token ' + page.token;
button.disabled = true;
say('stopping: the state is being saved …');
fetch(page.baseUrl + 'api/kernels/' + %s + '/interrupt', { method: 'POST', credentials: 'same-origin', headers })
  .then(answer => { if (!answer.ok) throw new Error('the server answered ' + answer.status); })
  .catch(problem => { button.disabled = false; say(problem.message + '; use the interrupt button of the toolbar'); });
"""
_STYLE = "padding: 4px 14px; border: 1px solid #d64545; border-radius: 4px; background: none; color: inherit"


def stop_button(kernel_id: str | None) -> str:
    """HTML of the button; without a known kernel, a sentence that says how to stop."""
    if kernel_id is None:
        return '<span role="status">To stop and save: interrupt the kernel.</span>'
    script = escaped(" ".join((_PRESSED % json.dumps(kernel_id)).split()))
    return (
        f'<button type="button" class="aprnb-stop" style="{_STYLE}" onclick="{script}">'
        '<span style="color: #d64545">■</span> Stop and save</button>'
        ' <span role="status" style="margin-left: 10px"></span>'
    )
