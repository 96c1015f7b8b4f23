"""Lets the pages of asv be seen without a network: what they load from other servers is kept in scripts/."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

SCRIPTS = Path(__file__).with_name("scripts")
ELSEWHERE = re.compile(
    r'"https://[^"]+/([^"/]+\.(?:css|js))" integrity="[^"]+" crossorigin="anonymous"'
)


def complete(pages: Path) -> None:
    """Copy the scripts beside the pages, which then load these."""
    shutil.copytree(SCRIPTS, pages / SCRIPTS.name)
    index = pages / "index.html"
    index.write_text(ELSEWHERE.sub(lambda found: f'"{kept(found[1])}"', index.read_text()))


def kept(name: str) -> str:
    """Return the address of a script that is kept, which may be the form that people read."""
    for path in (SCRIPTS / name, SCRIPTS / name.replace(".min.", ".")):
        if path.exists():
            return f"{SCRIPTS.name}/{path.name}"
    msg = f"the pages of this version of asv load {name}, which is not in {SCRIPTS}"
    raise FileNotFoundError(msg)


if __name__ == "__main__":
    complete(Path(sys.argv[1]))
