"""The script of a live panel: it tells whether the page is connected to the run, keeps it up to date, and stops it.

An output is stored as it was when the notebook was saved. A panel is therefore stored as a state of some time, and what
is true only of a live one (`.aprnb-connected`) is shown by a style that this script adds. The page in which the cell
was run is connected from the start. Any other, such as a reloaded one, whose displays JupyterLab forgets, asks the
kernel over its channels (jupyter-server.readthedocs.io, "WebSocket kernel wire protocols"): a kernel of the same
session answers with the present displays, also after the run's end, and its later updates are put in their places: in
the page alone, for JupyterLab saves its own copy, so the page says how to save the result. A page that heard nothing
for some time asks too. Where the kernel was restarted or has gone, the style is removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

# The page contains the server's base URL and, on hubs, the token; the cookie protects from requests of other sites.
_PAGE = """
const config = document.getElementById('jupyter-config-data'), page = config && JSON.parse(config.textContent);
const panels = window.aprnbPanels = window.aprnbPanels || {}, find = id => document.getElementById(id);
const panel = panels[PANEL] = panels[PANEL] || { seen: 0 }, second = 1000, quiet = 10 * second;
"""
# An interrupt reaches a blocked kernel. A run that is asked to stop is asked on a subshell, where the kernel has them.
_CONNECTION = """
const connected = () => {
  Object.assign(panel, { seen: Date.now(), wait: quiet });
  if (find(PANEL + '-alive')) return;
  const style = document.createElement('style'), own = '[id^="' + PANEL + '"] .aprnb-';
  style.id = PANEL + '-alive';
  style.textContent = own + 'stored { display: none } ' + own + 'connected { display: revert !important }';
  document.head.append(style);
};
const lost = () => { clearTimeout(panel.due); const style = find(PANEL + '-alive'); if (style) style.remove(); };
const end = () => { clearInterval(panel.timer); lost(); if (panel.socket) panel.socket.close(); };
const session = Math.random().toString(36).slice(2);
let sent = 0;
const send = (channel, type, content, more) => panel.socket.send(JSON.stringify({
  channel, content, parent_header: {}, metadata: {}, buffers: [],
  header: { msg_id: session + '-' + ++sent, msg_type: type, session, username: '', date: new Date().toISOString(),
    version: '5.5', ...more } }));
const request = () => {
  if (!panel.wants) return;
  send('shell', 'comm_open', { comm_id: session + '-' + sent, target_name: TARGET, data: { ask: panel.wants } },
    panel.subshell ? { subshell_id: panel.subshell } : {});
  panel.wants = '';
};
const question = () => {
  send('control', 'kernel_info_request', {});
  if (panel.subshell) { request(); return; }
  send('control', 'create_subshell_request', {});
  setTimeout(request, 1500);
};
const ask = what => {
  Object.assign(panel, { asked: Date.now(), wait: Math.min(2 * (panel.wait || quiet), 300 * second), wants: what });
  clearTimeout(panel.due);
  panel.due = setTimeout(lost, quiet);
  if (panel.socket && panel.socket.readyState === 1) question();
  else connect();
};
const put = (id, data) => {
  const place = find(id), png = data['image/png'];
  if (!place) return;
  place.innerHTML = png ? '<img src="data:image/png;base64,' + png + '">' : data['text/html'] || '';
  if (id !== PANEL + '-stop' || place.innerHTML) return;
  end();
  if (!panel.born) place.innerHTML = NOT_SAVED;
};
const connect = () => {
  const socket = panel.socket = new WebSocket(location.origin.replace(/^http/, 'ws') + page.baseUrl + 'api/kernels/' +
    KERNEL + '/channels?session_id=' + session + (page.token ? '&token=' + page.token : ''));
  panel.subshell = '';
  socket.onopen = question;
  socket.onclose = lost;
  socket.onmessage = ({ data }) => {
    const { channel, header, content } = JSON.parse(data), type = header && header.msg_type;
    const id = content && content.transient && content.transient.display_id || '';
    if (type === 'update_display_data' && id.startsWith(PANEL)) { connected(); put(id, content.data); look(); }
    if (type === 'comm_close' && content.comm_id.startsWith(session) && Date.now() - panel.seen > quiet) end();
    if (channel !== 'control' || !type.endsWith('_reply')) return;
    if (header.session !== SESSION) { end(); return; }
    clearTimeout(panel.due);
    if (find(PANEL + '-alive')) connected();
    if (type === 'create_subshell_reply') { panel.subshell = content.subshell_id || ''; request(); }
  };
};
"""
_PRESSED = """
const press = event => {
  const button = event.target.closest('button.aprnb-stop');
  if (!button) return;
  const say = text => { button.nextElementSibling.textContent = text; };
  const failed = why => { button.disabled = false; say(why + '; use the interrupt button of the toolbar'); };
  if (!page) { say('use the interrupt button of the editor'); return; }
  button.disabled = true;
  say(STOPPING);
  if (IS_ASKED) { ask('stop'); return; }
  const headers = { 'X-XSRFToken': (document.cookie.match(/(?:^|; )_xsrf=([^;]*)/) || ['', ''])[1] };
  if (page.token) headers.Authorization = 'token ' + page.token;
  fetch(page.baseUrl + 'api/kernels/' + KERNEL + '/interrupt', { method: 'POST', credentials: 'same-origin', headers })
    .then(answer => { if (!answer.ok) throw new Error('the server answered ' + answer.status); })
    .catch(problem => failed(problem.message));
};
"""
# An update that JupyterLab shows is a sign of the run too; without the server's page only that can be. A page that
# never heard of the run asks for five minutes.
_LOOK = """
const look = () => {
  const place = find(PANEL), stop = find(PANEL + '-stop');
  if (!place || !stop) return;
  if (!stop.innerHTML) { end(); return; }
  stop.onclick = press;
  const text = place.textContent;
  if (panel.text && text !== panel.text) connected();
  panel.text = text;
  const isDue = page && Date.now() - Math.max(panel.seen, panel.asked || 0) > (panel.wait || quiet);
  if (isDue && !panel.seen && panel.wait === 300 * second) end();
  else if (isDue) ask('state');
  if (!page && Date.now() - panel.seen > 90 * second) lost();
};
clearInterval(panel.timer);
panel.timer = setInterval(look, second);
panel.text = '';
if (Date.now() - panel.seen < quiet) connected();
else {
  Object.assign(panel, { asked: Date.now(), wait: quiet });
  setTimeout(() => { if (page && find(PANEL + '-stop')) ask('state'); }, 500);
}
look();
"""
_BORN = "(window.aprnbPanels = window.aprnbPanels || {})[PANEL] = { seen: Date.now(), born: true };"


def page_script(names: Mapping[str, str | bool]) -> str:
    """The script of the panel: PANEL, KERNEL, SESSION and so on are replaced by these values."""
    return _script("(() => {" + _PAGE + _CONNECTION + _PRESSED + _LOOK + "})();", names)


def born_script(panel: str) -> str:
    """The script by which a page knows that the cell was run in it; it is replaced at once, and so never saved."""
    return _script(_BORN, {"PANEL": panel})


def _script(text: str, names: Mapping[str, str | bool]) -> str:
    """One line of JavaScript with the names replaced by their values, which end no script element."""
    words = {name: json.dumps(value).replace("</", "<\\/") for name, value in names.items()}
    return re.sub("|".join(rf"\b{name}\b" for name in words), lambda found: words[found[0]], " ".join(text.split()))
