"""The results of the modules `with_*`: calls to time, or the reason for a missing call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .cases import TOLERANCE, Array, Case

# Forms that take more than this multiple of the time of their contender's best form are not measured.
HOPELESS = 1.5
# A call that takes more seconds is warmed up once, after the call whose result is checked.
SLOW = 0.05


class MissingError(Exception):
    """A contender cannot do this work; the page shows the reason."""


@dataclass
class Contender:
    """A call, and a function that reads its result.

    Forms of one contender are different ways to write the same work; the best one counts.
    """

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], list[Array]] | None = None
    """Returns the result as NumPy arrays with the shapes of the case; None if there is nothing to check."""
    form: str = ""
    before: Callable[[], object] | None = None
    """Prepares a measurement and is not timed."""
    inner: int = field(default=1, init=False)
    fastest: float = field(default=math.inf, init=False)
    error: float | None = field(default=None, init=False)
    """The largest difference of its result from the formula in float64."""

    def check(self, case: Case) -> list[Array]:
        """Run once and return the result; raise if it is wrong."""
        if self.before is not None:
            self.before()
        result = self.call()
        if self.read is None:
            return []
        arrays = self.read(result)
        error = case.error(arrays)
        if not error <= TOLERANCE[case.dtype]:
            msg = f"{self.name} is wrong, by {error:.2g}"
            raise ArithmeticError(msg)
        self.error = error
        return arrays

    def calibrate(self, seconds: float) -> None:
        """Choose the number of calls for a measurement of at least `seconds`."""
        for _ in range(3):
            self.fastest = min(self.fastest, self._run(self.inner))
            if self.fastest > SLOW:
                break
        while self.fastest * self.inner < seconds / 4:
            self.inner *= 4
            self.fastest = self._run(self.inner)
        self.inner = max(1, round(seconds / self.fastest))

    def turn(self) -> float:
        """Return the seconds of one call, averaged over a measurement."""
        return self._run(self.inner)

    def _run(self, inner: int) -> float:
        if self.before is not None:
            self.before()
        call = self.call
        start = time.perf_counter()
        for _ in range(inner):
            kept = call()  # noqa: F841  (a caller keeps a result until it has the next one)
        return (time.perf_counter() - start) / inner


def without_hopeless(contenders: list[Contender]) -> list[Contender]:
    """Leave out forms that are far slower than another form of the same contender."""
    best: dict[str, float] = {}
    for each in contenders:
        best[each.name] = min(each.fastest, best.get(each.name, math.inf))
    return [each for each in contenders if each.fastest <= HOPELESS * best[each.name]]
