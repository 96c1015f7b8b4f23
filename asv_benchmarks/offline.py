"""Copies the scripts that the pages of asv load from other servers to their folder, so the pages need no network."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
# The name of each script in the pages, and its file. npm installs the packages in package.json; flot is not minified.
SCRIPTS = {
    "bootstrap.min.css": "node_modules/bootstrap/dist/css/bootstrap.min.css",
    "bootstrap.min.js": "node_modules/bootstrap/dist/js/bootstrap.min.js",
    "jquery-3.3.1.min.js": "node_modules/jquery/dist/jquery.min.js",
    "jquery.flot.categories.min.js": "node_modules/flot/jquery.flot.categories.js",
    "jquery.flot.min.js": "node_modules/flot/jquery.flot.js",
    "jquery.flot.orderBars.js": "jquery.flot.orderBars.js",
    "jquery.flot.selection.min.js": "node_modules/flot/jquery.flot.selection.js",
    "jquery.flot.time.min.js": "node_modules/flot/jquery.flot.time.js",
    "md5.min.js": "node_modules/blueimp-md5/js/md5.min.js",
    "stupidtable.min.js": "node_modules/stupid-table-plugin/stupidtable.min.js",
}
ELSEWHERE = re.compile(
    r'"https://[^"]+/([^"/]+\.(?:css|js))" integrity="[^"]+" crossorigin="anonymous"'
)


def complete(pages: Path) -> None:
    """Copy the scripts into `pages`, whose index then loads these."""
    folder = pages / "scripts"
    folder.mkdir(exist_ok=True)
    for name, path in SCRIPTS.items():
        shutil.copyfile(HERE / path, folder / name)
    index = pages / "index.html"
    index.write_text(ELSEWHERE.sub(lambda found: f'"{local(found[1])}"', index.read_text()))


def local(name: str) -> str:
    """Return the address of a copied script."""
    if name not in SCRIPTS:
        msg = f"the pages of this version of asv load {name}, which is not in SCRIPTS"
        raise KeyError(msg)
    return f"scripts/{name}"


if __name__ == "__main__":
    complete(Path(sys.argv[1]))
