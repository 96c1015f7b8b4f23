"""How Sphinx builds the documentation: `nox -s docs`."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version

project = "rotary"
author = "rotary developers"
copyright = "2026, rotary developers"
release = installed_version("rotary")
version = release.partition("+")[0]

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]
nitpicky = True

# Links into other projects need the network, so they are made where it is known to be there.
intersphinx_mapping = (
    {
        "numba": ("https://numba.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3/", None),
    }
    if os.environ.get("READTHEDOCS") or os.environ.get("ROTARY_DOCS_LINKS")
    else {}
)
# Without them these names cannot be resolved; names of this project always must.
nitpick_ignore_regex = [(r"py:.*", r"(?!rotary)[A-Za-z_].*")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
numpydoc_validation_checks = {"PR02", "PR03"}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "rotary"
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"index": []}
