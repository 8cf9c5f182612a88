"""The turns of a conversation as a template of Ollama, which are Go's text/template.

All text is in string constants, so that no text of a checkpoint is read as a template, and white space between the
actions is trimmed. Ollama passes `.Messages` (with `.Role` and `.Content`) and `.System`, the system messages joined.
"""

from __future__ import annotations

from aprnb.conversion.ollama.turns import Turns

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def go_template(turns: Turns) -> str:
    """The template's text; it contains no three quotes in a row."""
    lines = [_write(turns.head)] if not turns.takes_system or turns.inside_user else _without_system(turns.head)
    if turns.takes_system and turns.inside_user:
        lines.append("{{- $system := .System }}")
    lines.append("{{- range .Messages }}")
    branches = [("user", _user(turns)), ("assistant", _around(turns.assistant))]
    if turns.takes_system and not turns.inside_user:
        branches.insert(0, ("system", _around(turns.system)))
    for number, (role, text) in enumerate(branches):
        lines.append(f'{{{{- {"else " if number else ""}if eq .Role "{role}" }}}}{text}')
    lines += ["{{- end }}", "{{- end }}" + _action(turns.generation)]
    return "\n".join(line for line in lines if line)


def go_string(text: str) -> str:
    """`text` as a Go string constant in ASCII."""
    return '"' + "".join(_ESCAPES.get(sign) or _plain(sign) for sign in text) + '"'


def _plain(sign: str) -> str:
    if " " <= sign <= "~":
        return sign
    code = ord(sign)
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def _action(text: str) -> str:
    return f"{{{{ {go_string(text)} }}}}" if text else ""


def _write(text: str) -> str:
    return f"{{{{- {go_string(text)} }}}}" if text else ""


def _without_system(head: str) -> list[str]:
    return [f"{{{{- if not .System }}}}{_action(head)}{{{{ end }}}}"] if head else []


def _around(turn: tuple[str, str]) -> str:
    return _action(turn[0]) + "{{ .Content }}" + _action(turn[1])


def _user(turns: Turns) -> str:
    if not (turns.takes_system and turns.inside_user):
        return _around(turns.user)
    before, after = turns.system
    system = "{{ if $system }}" + _action(before) + "{{ $system }}" + _action(after) + '{{ $system = "" }}{{ end }}'
    return _action(turns.user[0]) + system + "{{ .Content }}" + _action(turns.user[1])
