"""Writes docs/api: one page for each sub-package, from its ``__all__``."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

PACKAGES = (
    "sde", "score", "losses", "samplers", "samplers.predictor_corrector", "samplers.exponential", "samplers.fitted",
    "samplers.base", "samplers.grid_sampler", "samplers.instants", "samplers.discretization", "likelihood", "guidance", "tasks",
    "schedules", "jump", "jump.confidences", "jump.grids", "product",
    "networks", "filters", "data", "operators", "distributions", "metrics", "experiment", "loggers", "noise_distributions",
    "solvers",
)  # fmt: skip
MODULES = ("noise", "ema", "conditions", "interop")
"""Without ``__all__``: what they define themselves is public where its name has no underscore."""


def public_names(module: ModuleType) -> list[str]:
    """The public names of a module: those of ``__all__``, or else the functions and classes that it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def page(name: str) -> str:
    """The page of a sub-package: its docstring, a table of its names, and each of them with its docstring.

    A name that the page of the package above it documents is left out.
    """
    module = importlib.import_module(f"scoresde.{name}")
    above, _, _ = name.rpartition(".")
    documented = set(public_names(importlib.import_module(f"scoresde.{above}"))) if above else set()
    title = f"scoresde.{name}"
    lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", ""]
    names = sorted(set(public_names(module)) - documented, key=lambda n: (order(module, n), n.lower()))
    lines += [f".. currentmodule:: {title}", "", ".. autosummary::", "", *(f"   {n}" for n in names), ""]
    for n in names:
        lines += entry(module, n)
    return "\n".join(lines)


def order(module: ModuleType, name: str) -> int:
    """Classes first, then functions, then the rest."""
    value = getattr(module, name)
    return 0 if inspect.isclass(value) else 1 if inspect.isfunction(value) else 2


def entry(module: ModuleType, name: str) -> list[str]:
    """The directives that document one name."""
    value = getattr(module, name)
    if inspect.isclass(value):
        return [f".. autoclass:: {name}", "   :members:", "   :special-members: __call__", "   :show-inheritance:", ""]
    if inspect.isfunction(value):
        return [f".. autofunction:: {name}", ""]
    if inspect.ismodule(value):
        return [f".. automodule:: {value.__name__}", "   :members:", "", f".. currentmodule:: {module.__name__}", ""]
    return [f".. py:data:: {name}", ""]  # autodata would show the docstring of dict or float


def write(folder: Path) -> None:
    """Write the pages and their index, only where their text has changed."""
    folder.mkdir(exist_ok=True)
    pages = {name: page(name) for name in (*PACKAGES, *MODULES)}
    index = [
        "API reference",
        "=============",
        "",
        ".. toctree::",
        "   :maxdepth: 1",
        "",
        *(f"   {n}" for n in pages),
        "",
    ]
    pages["index"] = "\n".join(index)
    for name, text in pages.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
