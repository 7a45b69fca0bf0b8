"""The settings of Sphinx for the site (https://www.sphinx-doc.org/en/master/usage/configuration.html)."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

project = README.split("\n", 1)[0].removeprefix("# ")
author = "The course authors"
project_copyright = re.search(r"Copyright \(c\) (.+)", (REPOSITORY / "LICENSE").read_text(encoding="utf-8"))[
    1
]
html_title = project
licence = re.search(r"^## Licence\n+(.+?):", README, flags=re.MULTILINE)[1]
language = "en"

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # instead of a network's
    "course_lib.site.hooks",
]
exclude_patterns = ["downloads/**"]

# The outputs are in the notebooks; widgets carry a picture (`course_lib.widgets`), and need no JavaScript of theirs.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_allow_labels = False  # a lecture's $$ … $$ (7) is a formula and a bracket, as in JupyterLab
myst_dmath_double_inline = True
myst_heading_anchors = 3
myst_url_schemes = ["http", "https", "mailto", "source"]
smartquotes = False

# Reference. An unknown `name` in a docstring is code; a known one is a link.
default_role = "py:obj"
autosummary_generate = False
autodoc_inherit_docstrings = False
# A constant's value is in the source, and may be a path of this machine.
autodoc_default_options = {"no-value": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
viewcode_line_numbers = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["course.css"]
html_use_index = html_domain_indices = False  # search finds names, too
html_copy_source = False  # the notebooks can be downloaded as they are in the repository
html_show_search_summary = False  # it would fetch the pages that were found, which a page on a disk may not
html_show_sphinx = False
# Light or dark as the reader's system is, until the button says otherwise.
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_persistent": [],
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "collapse_navigation": True,  # a hundred modules stand only in the reference's own sidebar
    "navigation_depth": 2,
    "use_download_button": False,
    "extra_footer": f"<p>{licence}.</p>",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
