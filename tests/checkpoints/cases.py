"""Names the case of a loop whose assertion fails."""

from __future__ import annotations

from contextlib import contextmanager


@contextmanager
def case(name):
    """Add a name to whatever a case raises."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case {name!r}")
        raise
