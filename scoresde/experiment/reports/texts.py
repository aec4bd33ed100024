"""Bits/byte of text in the report."""

from __future__ import annotations

from typing import Any

from scoresde.experiment.reports.html import note, table


def text_table(summary: dict[str, Any]) -> str:
    """Bits/byte of a likelihood of text, with those of other models of the same bytes. Empty for other data.

    Args:
        summary: The summary of the likelihood.

    Returns:
        HTML.
    """
    facts = summary.get("text")
    if not facts:
        return ""
    error = facts["standard error"]
    rows = [("this run", f"{facts['bits_per_byte']:.3f}", "unknown" if error is None else f"{error:.3f}")]
    rows += [(one["name"], f"{one['value']:.3f}", "") for one in facts["figures"]]
    head = (f"model, {facts['bytes']} bytes of text", "bits/byte", "standard error")
    said = (
        "The bits of all windows divided by the bytes that they stand for: vocabularies and lengths of windows compare."
    )
    return table(f"text-{summary['split']}", head, rows, numbers=(1, 2), ours=0) + note(said)
