"""Every example of README and of the documentation runs and prints what it says."""

from __future__ import annotations

import doctest
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import LIBRARIES

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if ">>> " in page.read_text(encoding="utf-8")
]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page):
    """The examples of one page as one test, so that an example may use the names of earlier ones."""
    text = page.read_text(encoding="utf-8")
    parser = doctest.DocTestParser()
    found = []
    for block in FENCED.finditer(text):
        line = text.count("\n", 0, block.start(1))
        for example in parser.get_examples(block[1]):
            example.lineno += line
            found.append(example)
    return doctest.DocTest(found, {}, page.name, str(page), 0, text)


def parameter(page):
    """A page as a parameter of a test, marked with the libraries that its examples import."""
    text = page.read_text(encoding="utf-8")
    needed = [
        name
        for name, (_, module) in LIBRARIES.items()
        if name != "numpy" and re.search(rf"^>>> import {module}\b", text, re.MULTILINE)
    ]
    marks = [pytest.mark.library("numpy", *needed)]
    if re.search(r"^>>> import pint\b", text, re.MULTILINE) and not find_spec("pint"):
        marks.append(pytest.mark.skip(reason="its examples need pint"))
    return pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=marks)


@pytest.mark.docs
@pytest.mark.parametrize("page", [parameter(page) for page in PAGES])
def test_examples(page):
    report = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(examples(page), out=report.append)
    assert runner.failures == 0, "".join(report)
