"""Every public object has a Google-style docstring that the documentation site can render.

Public are the names in ``__all__`` of `scoresde` and of its sub-packages, and the public methods of these classes. A docstring
has a one-line summary that ends with a full stop. A function or class with parameters describes each of them under "Args:"
(a dataclass may call the section "Attributes:"), and a function with parameters that returns something has "Returns:" or
"Yields:". A method that overrides a documented one inherits its docstring, or needs only what is different.

    python -m tests.test_docstrings sde samplers        # prints what is missing in these sub-packages
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import scoresde

PACKAGE = Path(scoresde.__file__).parent
PACKAGES = sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists())
MODULES = ["noise", "ema", "conditions"]
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|References|Example|Examples|Note):\s*$", re.M)


def public_modules(package: str) -> list[ModuleType]:
    """The sub-package and those of its own sub-packages that declare ``__all__``."""
    names = [f"scoresde.{package}"]
    names += [
        f"scoresde.{p.parent.relative_to(PACKAGE)}".replace("/", ".")
        for p in sorted((PACKAGE / package).rglob("__init__.py"))
        if p.parent != PACKAGE / package
    ]
    return [
        m for m in map(importlib.import_module, names) if hasattr(m, "__all__") or m.__name__ == f"scoresde.{package}"
    ]


def public_objects(package: str) -> Iterator[tuple[str, object, type | None]]:
    """(qualified name, function or class, the class that a method belongs to), each once."""
    seen: set[int] = set()
    for module in public_modules(package):
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)) or id(thing) in seen:
                continue
            if not (thing.__module__ or "").startswith(f"scoresde.{package}"):
                continue
            seen.add(id(thing))
            yield f"{thing.__module__}.{thing.__qualname__}", thing, None
            if inspect.isclass(thing):
                for key, value in vars(thing).items():
                    value = getattr(value, "__func__", value)
                    if not key.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                        yield f"{thing.__module__}.{thing.__qualname__}.{key}", value, thing


def documented(owner: type | None, thing: object, name: str) -> str:
    """The docstring of the object followed by those that it overrides."""
    own = inspect.getdoc(thing) or ""
    if owner is None:
        if inspect.isclass(thing):
            own += "\n" + (inspect.getdoc(thing.__init__) or "" if "__init__" in vars(thing) else "")
            own += "".join(
                "\n" + (inspect.getdoc(b) or "") for b in thing.__mro__[1:] if b.__module__.startswith("scoresde")
            )
        return own
    above = [inspect.getdoc(vars(b)[name]) or "" for b in owner.__mro__[1:] if name in vars(b)]
    return "\n".join([own, *above])


def own_docstring(owner: type | None, thing: object, name: str) -> str:
    """The docstring that help() shows: the object's own, or the one that it inherits."""
    own = inspect.getdoc(thing)
    return own or documented(owner, thing, name)


def described(text: str) -> set[str]:
    """Names that the sections "Args:" and "Attributes:" describe."""
    names: set[str] = set()
    for section in re.findall(r"^(?:Args|Attributes):\s*\n((?:[ \t]+\S.*\n?|\s*\n)+)", text, re.M):
        for head in re.findall(r"^[ \t]+([\w*, `]+?)(?:\s*\([^)\n]*\))?:", section, re.M):
            names.update(part.strip(" *`") for part in head.split(","))
    return names


def faults(name: str, thing: object, owner: type | None) -> list[str]:
    """What the docstring of one object lacks."""
    short = name.rsplit(".", 1)[1]
    text = own_docstring(owner, thing, short).strip()
    if not text:
        return ["no docstring"]
    found = []
    summary = text.split("\n\n")[0].strip()
    if "\n" in summary or not summary.rstrip("`").endswith((".", "?")):
        found.append("the summary is not one line that ends with a full stop")
    if isinstance(thing, property):
        return found
    everything = documented(owner, thing, short)
    try:
        parameters = [p for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return found
    if inspect.isclass(thing) and (issubclass(thing, (BaseException, dict)) or getattr(thing, "_is_protocol", False)):
        return found
    if inspect.isclass(thing) and str(getattr(thing.__init__, "__module__", "")).startswith("torch."):
        return found  # *args and **kwargs of torch.nn.Module
    missing = [p.name for p in parameters if not p.name.startswith("_") and p.name not in described(everything)]
    if missing:
        found.append(f"no description of {', '.join(missing)}")
    returns = thing.__annotations__.get("return") if inspect.isfunction(thing) and parameters else None
    if returns not in ("None", None, "NoReturn") and not re.search(r"^(Returns|Yields):", everything, re.M):
        found.append("no Returns section")
    return found


def all_faults(package: str) -> list[str]:
    return [
        f"{name}: {fault}" for name, thing, owner in public_objects(package) for fault in faults(name, thing, owner)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_objects_have_google_style_docstrings(package):
    found = all_faults(package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("module", MODULES)
def test_public_modules_have_google_style_docstrings(module):
    loaded = importlib.import_module(f"scoresde.{module}")
    things = [
        (f"scoresde.{module}.{k}", v)
        for k, v in vars(loaded).items()
        if getattr(v, "__module__", "") == loaded.__name__
    ]
    found = [f"{n}: {f}" for n, v in things if not n.rsplit(".", 1)[1].startswith("_") for f in faults(n, v, None)]
    assert not found, "\n".join(found)


def test_a_docstring_without_its_sections_is_found():
    def halved(x: int, y: int) -> int:
        """Half of the sum

        Args:
            x: A number.
        """
        return (x + y) // 2

    assert faults("m.halved", halved, None) == [
        "the summary is not one line that ends with a full stop",
        "no description of y",
        "no Returns section",
    ]


if __name__ == "__main__":
    for chosen in sys.argv[1:] or PACKAGES:
        for line in all_faults(chosen):
            print(line)
