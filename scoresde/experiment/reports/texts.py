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
    rows = [("this run", f"{facts['bits_per_byte']:.4f}", "unknown" if error is None else f"{error:.4f}")]
    rows += [(one["name"], f"{one['value']:.4f}", "") for one in facts["figures"]]
    head = (f"model, {facts['bytes']} bytes of text", "bits/byte", "standard error")
    said = (
        f"{facts['bits_per_token']:.4f} bits/token, perplexity {facts['perplexity']:.3f} per token. Bits/byte are the bits of "
        "all windows divided by the bytes that they stand for: vocabularies and lengths of windows compare. A compressor after "
        "the training text is charged for what it adds to the compressed training text, so that it can repeat long parts of it."
    )
    return table(f"text-{summary['split']}", head, rows, numbers=(1, 2), ours=0) + note(said)
