"""The reference site: `sphinx-build -W -n -c docs . build/site` in the root of the repository."""

from sphinx.application import Sphinx

import quantus_ext

project = "quantus_ext"
version = release = quantus_ext.__version__
extensions = ["sphinx.ext.autodoc", "numpydoc", "myst_parser"]

# The root is the source, so that links between pages, tables and notebooks hold here as in the
# repository.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md", "findings/*.md"]
exclude_patterns = [".*", "build", "tests", "**/node_modules"]

nitpicky = True
# Types stand in the docstrings, in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Other projects' pages are not asked where this one is built.
nitpick_ignore_regex = [(r"py:.*", r"(collections|matplotlib|numpy|quantus|torch)\..*")]

html_theme = "alabaster"
html_theme_options = {"description": "Faithfulness metrics for explanations, on Quantus"}
html_show_copyright = False


def name_the_table(app: Sphinx, page: str, source: list[str]) -> None:
    """Give a benchmark's table, which has the command that wrote it on top, its name as a title."""
    folder, _, name = page.partition("/")
    if folder == "benchmarks" and not source[0].startswith("# "):
        source[0] = f"# {name}\n\n{source[0]}"


def setup(app: Sphinx) -> None:
    """Connect it."""
    app.connect("source-read", name_the_table)
