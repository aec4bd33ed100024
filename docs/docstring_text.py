"""Escapes markup characters in docstrings: ``(B, *event)``, ``|det A|`` and ``x_`` are plain text there."""

from __future__ import annotations

import re

_LITERAL = re.compile(
    r"(``.+?``|:[\w:+-]+:`[^`]+`|`[^`]+`|\*\*[^*\s][^*]*\*\*|(?<![\w*])\*[^*\s][^*,()]*(?<![\s*])\*(?!\w))"
)
_STAR = re.compile(r"(?<!\\)(\*{1,2})(?=[\w(])")
_BAR = re.compile(r"(?<!\\)\|")
_UNDERSCORE = re.compile(r"(?<=\w)_(?!\w)")


def escaped(line: str) -> str:
    """The line with the characters escaped that would start markup, outside of code, roles and emphasis."""
    pieces = _LITERAL.split(line)
    for k in range(0, len(pieces), 2):
        pieces[k] = _UNDERSCORE.sub(r"\\_", _BAR.sub(r"\\|", _STAR.sub(r"\\\1", pieces[k])))
    return "".join(pieces)


def escape(lines: list[str]) -> None:
    """Escape the lines of a docstring in place. Literal blocks and the content of directives stay as they are."""
    indent_of_block: int | None = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if indent_of_block is not None:
            if not line.strip() or indent > indent_of_block:
                continue
            indent_of_block = None
        text = line.strip()
        if text.startswith((">>>", ".. math::", ".. code")) or text.endswith("::"):
            indent_of_block = indent
        if not text.startswith((".. ", ">>>")):
            lines[number] = escaped(line)
