"""Which arrays of a call overlap, found out once for addresses that lie equally far apart."""

from __future__ import annotations

from collections.abc import Sequence

from rotary._lib.memo import Memo
from rotary.backends.contract import GpuView

from .memory import span_of

# Address differences of interleaved arrays, such as slices of a packed qkv, that were proved not to overlap.
DISJOINT_REMEMBERED = 256


class Overlap:
    """Whether the outputs of calls of one kind lie apart from all other arrays, by their addresses.

    Parameters
    ----------
    inputs, outputs : sequence of GpuView
        Of a call of this kind. Each output may be the input of the same number.
    """

    __slots__ = ("_disjoint", "_pairs", "_spans")

    def __init__(self, inputs: Sequence[GpuView], outputs: Sequence[GpuView]) -> None:
        self._spans = [span_of(view) for view in (*inputs, *outputs)] if outputs else []
        self._pairs = _must_be_disjoint(inputs, outputs)
        self._disjoint: Memo[tuple[int, ...], bool] = Memo(DISJOINT_REMEMBERED)

    def is_excluded(self, addresses: Sequence[int]) -> bool:
        """Return whether outputs are known to overlap no other array, given the addresses of inputs and outputs."""
        spans = self._spans
        for i, j in self._pairs:
            a, b = addresses[i], addresses[j]
            if a + spans[i][0] < b + spans[j][1] and b + spans[j][0] < a + spans[i][1]:
                return self._disjoint.get(_distances(addresses)) is not None
        return True

    def exclude(self, addresses: Sequence[int]) -> None:
        """Remember that the elements of outputs interleave with those of other arrays, and overlap none of them."""
        self._disjoint.keep(_distances(addresses), True)


def _must_be_disjoint(
    inputs: Sequence[GpuView], outputs: Sequence[GpuView]
) -> list[tuple[int, int]]:
    """Return the pairs of arrays that must not overlap, by number: inputs first, then outputs."""
    pairs = []
    count = len(inputs)
    for i, y in enumerate(outputs):
        for j, x in enumerate(inputs):
            if i != j or (y.address, y.strides) != (x.address, x.strides):
                pairs.append((count + i, j))
        pairs += [(count + i, count + j) for j in range(i)]
    return pairs


def _distances(addresses: Sequence[int]) -> tuple[int, ...]:
    """Return addresses relative to the first one."""
    return tuple([address - addresses[0] for address in addresses])
