"""Tables that sort, search and page: DataTables from the itables package, applied to the static table.

They need no widget and no kernel. DataTables reads the cells of the escaped static table, so text from a file remains
text; the pane that shows a selected row is filled with text nodes. Where scripts do not run (GitHub, an untrusted
notebook) the static table remains.
"""

from __future__ import annotations

import json
import re
import secrets
from importlib.util import find_spec
from typing import Any

from aprnb.display.document import Document, Table
from aprnb.display.html import static_table, to_html

_PAGE_ROWS = 10
# With more rows the page becomes slow; the caption counts the hidden ones.
_MOST_ROWS = 5000

_TAKE_OVER = """<div class="aprnb-entry" id="%(id)s-entry" role="status" style="margin: 4px 0 10px"></div>
<script type="module">
(async () => {
  const start = async () => {
    const { ITable, set_or_remove_dark_class } = await window.%(module)s;
    set_or_remove_dark_class();
    const table = document.getElementById("%(id)s");
    if (!table || table.classList.contains("dataTable")) return;
    const names = %(names)s, pane = document.getElementById("%(id)s-entry");
    const { dt } = new ITable(table, %(options)s);
    dt.on("select deselect", () => {
      const row = dt.row({ selected: true }).node();
      const part = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
      const pair = (name, i) => [part("dt", name), part("dd", row.cells[i].textContent)];
      pane.replaceChildren(...(row ? names.flatMap(pair) : []));
    });
  };
  window.%(module)s ? start() : window.addEventListener("%(ready)s", start, { once: true });
})();
</script>"""

_STYLE = """<style>
.aprnb-entry:not(:empty) { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; padding: 8px 14px;
  border-left: 3px solid #4c78c8; background: #8881; }
.aprnb-entry dt { opacity: 0.75; grid-column: 1; }
.aprnb-entry dd { margin: 0; font-family: monospace; overflow-wrap: anywhere; grid-column: 2; }
table.aprnb-table.dataTable { margin: 0 !important; }
table.aprnb-table.dataTable tbody tr { cursor: pointer; }
.aprnb-scroll .dt-container { background: none; color: inherit; }
.aprnb-scroll table.aprnb-table.dataTable :is(th, td) { padding: 3px 10px; white-space: nowrap; }
.aprnb-scroll { overflow-x: auto; max-width: 100%; }
</style>"""


class TableScript:
    """Remembers which cell contains the 1 MB of DataTables: one per kernel session, the same one when run again."""

    def __init__(self) -> None:
        self._home: str | None = None
        self._sent = False

    def html(self, cell_id: str | None) -> str:
        """The script for this cell's output, empty if another cell contains it."""
        if self._sent and (cell_id is None or cell_id != self._home):
            return ""
        from itables import options
        from itables.javascript import generate_init_offline_itables_html

        self._sent, self._home = True, cell_id
        html = str(generate_init_offline_itables_html(options.dt_bundle))
        # After the script, itables adds a note about its `init_notebook_mode` cell.
        return html[: html.rindex("</script>") + len("</script>")]


def interactive_html(document: Document, script: TableScript, cell_id: str | None) -> str | None:
    """The document with interactive tables; None if it has no table or itables is not installed."""
    if find_spec("itables") is None or not _tables(document.blocks):
        return None
    html = to_html(document, table_html=_interactive_table)
    return f"{script.html(cell_id)}{_STYLE}\n{html}"


def _interactive_table(table: Table) -> str:
    from itables.javascript import _itables_ready_event, _itables_underscore_version

    identity = f"aprnb-{secrets.token_hex(6)}"
    static = static_table(table, row_limit=_MOST_ROWS, table_id=identity)
    values = {
        "id": identity,
        "module": _itables_underscore_version(),
        "ready": _itables_ready_event(),
        "names": _script_json([column.name for column in table.columns]),
        "options": _script_json(_options(table)),
    }
    return f'<div class="aprnb-scroll">{static}</div>\n{_TAKE_OVER % values}'


def _options(table: Table) -> dict[str, Any]:
    """Options of DataTables: https://datatables.net/reference/option/."""
    paged = len(table.rows) > _PAGE_ROWS
    controls = {"topStart": "pageLength", "topEnd": "search", "bottomStart": "info", "bottomEnd": "paging"}
    return {
        "order": [],
        "paging": paged,
        "searching": paged,
        "pageLength": _PAGE_ROWS,
        "lengthMenu": [_PAGE_ROWS, 25, 100, {"label": "all", "value": -1}],
        "layout": controls if paged else dict.fromkeys(controls),
        "autoWidth": False,
        "select": {"style": "single", "items": "row", "info": False, "keys": True},
    }


def _script_json(value: Any) -> str:
    """JSON that cannot close the script element around it."""
    return re.sub("[<>&\u2028\u2029]", lambda sign: f"\\u{ord(sign.group()):04x}", json.dumps(value))


def _tables(blocks: Any) -> bool:
    return any(isinstance(block, Table) or _tables(getattr(block, "blocks", ())) for block in blocks)
