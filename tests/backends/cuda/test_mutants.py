"""The list of mutants breaks places that are there, once each, in every way that a kernel can go wrong."""

from __future__ import annotations

from collections import Counter

import pytest
from mutants import MUTANTS, ROOT

KINDS = {"indexing", "bounds", "alignment", "strides", "phase", "factor", "struct", "launch"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.kind}-{mutant.before:.30}")
def test_a_mutant_changes_one_place(mutant):
    assert (ROOT / mutant.path).read_text(encoding="utf-8").count(mutant.before) == 1
    assert mutant.before != mutant.after


def test_every_kind_is_broken():
    assert set(Counter(mutant.kind for mutant in MUTANTS)) == KINDS


def test_no_mutant_is_listed_twice():
    assert len({(mutant.path, mutant.before, mutant.after) for mutant in MUTANTS}) == len(MUTANTS)
