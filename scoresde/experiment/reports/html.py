"""A self-contained HTML page: headings, tables, texts, and pictures inside the file.

It has no scripts and needs no other file.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError)
"""Exceptions that a damaged result file may raise."""
LONGEST_TEXT = 10_000
"""Largest number of characters of a text."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1f24; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d5d9e0; }
h3 { font-size: 1rem; margin: 1.2rem 0 0; }
table { border-collapse: collapse; margin: .6rem 0; }
td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { overflow-wrap: normal; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid #d5d9e0; } .n { text-align: right; font-variant-numeric: tabular-nums; }
.figures td:first-child { overflow-wrap: anywhere; white-space: normal; }
td.n, th.n { overflow-wrap: normal; white-space: nowrap; }
tr.ours td { font-weight: 600; } code, pre { font-size: .85rem; overflow-x: auto; } img { max-width: 100%; }
figure { display: inline-block; margin: .5rem 1.2rem .5rem 0; vertical-align: top; max-width: 18.5rem; }
figcaption { overflow-wrap: anywhere; font-size: .85rem; color: #555c68; }
figure.wide { max-width: 46rem; } figure.half { max-width: 28.5rem; margin-right: .8rem; }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f7f9; padding: .7rem; margin: 0; max-height: 30rem; }
figure.text { display: block; max-width: 100%; margin-right: 0; }
figure.full { max-width: 100%; margin-right: 0; } .scroll { overflow-x: auto; }
.scroll th, .scroll td, .scroll td:first-child { overflow-wrap: normal; white-space: nowrap; }
.missing { color: #9a3412; } .note { color: #555c68; font-size: .9rem; }
progress { width: 18rem; max-width: 100%; vertical-align: middle; }
@media (max-width: 40rem) { td:first-child { white-space: normal; } }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """The whole page."""
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<link rel='icon' href='data:,'><style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def table(
    name: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), ours: int = -1
) -> str:
    """A table with escaped cells. ``numbers`` are the columns aligned to the right, ``ours`` is the row in bold."""

    def line(cells: Sequence[str], tag: str, bold: bool = False) -> str:
        inner = "".join(
            f"<{tag}{' class=n' if k in numbers else ''}>{html.escape(str(cell))}</{tag}>"
            for k, cell in enumerate(cells)
        )
        return f"<tr{' class=ours' if bold else ''}>{inner}</tr>"

    body = "".join(line(cells, "td", k == ours) for k, cells in enumerate(rows))
    kind = " class=figures" if numbers else ""
    return f"<table id='{html.escape(name)}'{kind}>{line(head, 'th') if head else ''}{body}</table>"


def figure(picture: bytes, caption: str, size: str = "") -> str:
    """A PNG picture. ``size`` is "" for a third of the page, "half", "wide", or "full"."""
    data, alt = base64.b64encode(picture).decode(), html.escape(caption or "figure", quote=True)
    return (
        f"<figure{f' class={size}' if size else ''}><img alt='{alt}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def shown_figure(ending: str, content: bytes, caption: str, size: str = "") -> str:
    """A picture, or the content of a text file, by the ending of the file's name."""
    if ending == ".txt":
        return text_figure(content.decode("utf-8", "replace"), caption)
    return figure(content, caption, size)


def text_figure(text: str, caption: str) -> str:
    """A text with its line breaks, at most `LONGEST_TEXT` characters of it. Characters that cannot be seen are escaped."""
    cut = "" if len(text) <= LONGEST_TEXT else f" (the first {LONGEST_TEXT:,} of {len(text):,} characters)"
    return (
        f"<figure class=text><pre class=text>{html.escape(visible(text[:LONGEST_TEXT]))}</pre>"
        f"<figcaption>{html.escape(caption + cut)}</figcaption></figure>"
    )


def visible(text: str) -> str:
    """A text whose control characters, such as those that change the direction of writing, are written as ``\\x1b``."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def problem_note(text: str) -> str:
    """A paragraph about something that is missing or damaged."""
    return f"<p class='missing'>{html.escape(text)}</p>"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f"<p class='note'>{html.escape(text)}</p>"
