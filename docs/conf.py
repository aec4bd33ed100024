"""Configuration of the documentation site: ``make docs`` writes it to docs/_build/html/index.html."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import api_pages  # noqa: E402
import docstring_text  # noqa: E402

from scoresde.version import __version__  # noqa: E402

project, author, release = "scoresde", "the scoresde authors", __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
default_role = "py:obj"  # `Name` is a link where the name is known, and code elsewhere

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the outputs are stored in the notebooks; tests/test_notebooks.py executes them

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Grid", "Score", "Steps", "Times")}
autosummary_generate = False
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype, napoleon_use_ivar = False, True
napoleon_custom_sections = [("References", "notes_style")]

html_theme = "furo"
html_title = f"scoresde {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "monokai"
mathjax_path = "mathjax.js"  # copied from a package, so that the formulas need no connection


COPIED = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "notebooks/quickstart.ipynb": "notebooks/quickstart.ipynb",
    "notebooks/processes.ipynb": "notebooks/processes.ipynb",
    "notebooks/conditions.ipynb": "notebooks/conditions.ipynb",
    "notebooks/guidance.ipynb": "notebooks/guidance.ipynb",
    "notebooks/bounds.ipynb": "notebooks/bounds.ipynb",
    "notebooks/discrete.ipynb": "notebooks/discrete.ipynb",
}
"""Files outside of docs that are pages of the site: their path in the repository, and the path of the page."""


def copy_pages() -> None:
    """Copy the pages that lie outside of docs. A file without changes keeps its time, and Sphinx does not read it again."""
    for source, page in COPIED.items():
        text, target = (ROOT / source).read_text(), HERE / page
        target.parent.mkdir(exist_ok=True)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


def adapt_links(app: Sphinx, name: str, content: list[str]) -> None:
    """Links between files of the repository become links between pages of the site."""
    text = content[0]
    copied = name in {page.rpartition(".")[0] for page in COPIED.values()}
    if copied:
        text = text.replace("](../docs/", "](../").replace("](docs/", "](../")
    for source, page in COPIED.items():
        text = (
            text.replace(f"]({source}", f"]({Path(page).name}")
            if copied
            else text.replace(f"](../{source}", f"]({page}")
        )
    content[0] = text


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy MathJax, one file, next to the other static files of the site."""
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if exception is None and found is not None and found.origin is not None:
        source = Path(found.origin).parent / "static" / "mathjax" / "tex-svg-full.js"
        shutil.copyfile(source, Path(app.outdir) / "_static" / "mathjax.js")


def resolve_by_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a reference to a public object by its last names alone, such as `VPSDE` or `VPSDE.drift`, in every package."""
    if node.get("refdomain") != "py":
        return None
    wanted = node["reftarget"].lstrip(".~")
    objects = env.domains["py"].data["objects"]
    found = {entry.node_id: entry for name, entry in objects.items() if name == wanted or name.endswith(f".{wanted}")}
    if len(found) != 1:
        return None
    entry = next(iter(found.values()))
    uri = app.builder.get_relative_uri(node.get("refdoc", env.docname), entry.docname)
    return nodes.reference("", "", contnode, internal=True, refuri=f"{uri}#{entry.node_id}")


def escape_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape the plain text of a docstring, after napoleon has turned its sections into fields."""
    docstring_text.escape(lines)


def setup(app: Sphinx) -> None:
    """Write the pages of the API and copy the other pages before the build."""
    copy_pages()
    api_pages.write(HERE / "api")
    app.connect("source-read", adapt_links)
    app.connect("build-finished", copy_mathjax)
    app.connect("autodoc-process-docstring", escape_docstring)
    app.connect("missing-reference", resolve_by_name)
