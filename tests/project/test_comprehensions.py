"""No comprehension hides a name from an inner function, which is an error on Python 3.12 and later.

There a comprehension shares the scope of its function (PEP 709). If it binds a name that this function only passes on
from an enclosing function to an inner one, the inner function finds no value and raises a NameError.
"""

from __future__ import annotations

import ast
import symtable
from pathlib import Path

import pytest

import rotary
from rotary import backends

FOLDERS = (Path(rotary.__file__).parent, Path(backends.__file__).parent, Path(__file__).parents[1])
MARK = "is_a_comprehension"


class ComprehensionsAsLambdas(ast.NodeTransformer):
    """Gives every comprehension a scope, because since Python 3.12 it has none in a symbol table."""

    def visit(self, node):
        self.generic_visit(node)
        if not isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp):
            return node
        targets = [target for part in node.generators for target in ast.walk(part.target)]
        names = sorted({target.id for target in targets if isinstance(target, ast.Name)})
        values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for part in node.generators:
            values += [part.iter, *part.ifs]
        arguments = [ast.arg(name) for name in [MARK, *names]]
        return ast.Lambda(
            ast.arguments([], arguments, kwonlyargs=[], kw_defaults=[], defaults=[]),
            ast.Tuple(values, ast.Load()),
        )


def hidden(source):
    """Yield function and name if a comprehension binds what its function passes on to an inner one."""
    tree = ComprehensionsAsLambdas().visit(ast.parse(source))
    text = ast.unparse(ast.fix_missing_locations(tree))
    yield from _hidden_in(symtable.symtable(text, "source", "exec"))


def _hidden_in(scope):
    if scope.get_type() == "function" and not _is_comprehension(scope):
        comprehensions, functions = _inside(scope)
        bound = {name for each in comprehensions for name in each.get_parameters()}
        needed = _free(scope) & {name for each in functions for name in _free(each)}
        yield from ((scope.get_name(), name) for name in sorted(bound & needed))
    for child in scope.get_children():
        yield from _hidden_in(child)


def _inside(scope):
    """Return the comprehensions of a function, nested ones included, and its inner functions."""
    comprehensions, functions = [], []
    for child in scope.get_children():
        if _is_comprehension(child):
            nested, made = _inside(child)
            comprehensions += [child, *nested]
            functions += made
        else:
            functions.append(child)
    return comprehensions, functions


def _is_comprehension(scope):
    return scope.get_type() == "function" and MARK in scope.get_parameters()


def _free(scope):
    return {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_free()}


def test_no_comprehension_hides_a_name():
    paths = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))
    assert len(paths) > 100
    found = {str(path): list(hidden(path.read_text(encoding="utf-8"))) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


SAMPLE = """
def make(size):
    def generate():
        def inner():
            return {inner}
        return inner(), {comprehension}
    return generate
"""
HIDES = [
    "[size for size in (1, 2)]",
    "{size for size in (1, 2)}",
    "{1: size for _, (size, *_) in ()}",
    "[[size for size in other] for other in ()]",
    "[None for other in () for size in other if size]",
]
NEEDS = ["size", "[size + i for i in (1, 2)]", "(lambda: size)()", "list(size for _ in '1')"]


@pytest.mark.parametrize("comprehension", HIDES)
@pytest.mark.parametrize("inner", NEEDS)
def test_the_scan_finds_hidden_names(comprehension, inner):
    """The test above would pass if nothing were found."""
    source = SAMPLE.replace("{comprehension}", comprehension).replace("{inner}", inner)
    assert list(hidden(source)) == [("generate", "size")]


@pytest.mark.parametrize(
    ("comprehension", "inner"),
    [
        ("[other for other in (1, 2)]", "size"),
        ("list(size for size in (1, 2))", "size"),
        ("(lambda: [size for size in (1, 2)])()", "size"),
        ("[size for size in (1, 2)]", "0"),
        ("[size for size in (1, 2)]", "[size for size in (1, 2)]"),
    ],
)
def test_comprehensions_that_work_are_not_found(comprehension, inner):
    source = SAMPLE.replace("{comprehension}", comprehension).replace("{inner}", inner)
    assert list(hidden(source)) == []
    names = {}
    exec(source, names)  # noqa: S102  (the test runs the example)
    names["make"](5)()
