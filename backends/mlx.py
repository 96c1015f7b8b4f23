"""Exact cosine and sine that MLX can differentiate.

MLX shows the values of what it differentiates by, so that they can be computed on the host, as those of constants are.
Inside `mx.compile` and `mx.vmap` it does not, and its own operations compute them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rotary._lib.libraries import dtype_name, is_mlx_array, to_host
from rotary._lib.typing import Array, HostArray, TableDType
from rotary.angles.phases import LARGEST_FREQUENCY, Frequencies

from .contract import RowPositions
from .cpu.host import host

CosSin = Callable[[Any, int, Array, TableDType], tuple[Array, Array]]


def exact_in_mlx(otherwise: CosSin, rows: RowPositions) -> CosSin:
    """Return a function of frequencies, head, positions and dtype that is exact if MLX shows their values."""
    known = rows.positions is None or isinstance(rows.positions, np.ndarray)

    def cos_sin(
        frequencies: Any, head: int, positions: Array, dtype: TableDType
    ) -> tuple[Array, Array]:
        learned = is_mlx_array(frequencies)
        own = frequencies[head] if learned else frequencies.values[head]
        if "float" not in dtype_name(positions):
            return otherwise(frequencies, head, positions, dtype)
        exact = None
        if known:
            exact = rows.written_out(own.shape[0])
            exact = exact[:, head] if rows.by_head else exact
        values, places = to_host(own), to_host(positions) if exact is None else exact
        if values is None or places is None or not (_is_within(values) and _is_within(places)):
            return otherwise(frequencies, head, positions, dtype)
        if not learned:
            import mlx.core as mx

            own = mx.array(own.astype(dtype_name(positions)))
        found: tuple[Array, Array] = _differentiable(positions, own, _table(values, places, dtype))
        return found

    return cos_sin


def _is_within(values: HostArray) -> bool:
    """Return whether all frequencies or positions are such as the exact product takes."""
    return bool((np.abs(values) < LARGEST_FREQUENCY).all())


def _table(frequencies: HostArray, positions: HostArray, dtype: TableDType) -> HostArray:
    """Return cosine and sine (2, ..., pairs) for frequencies (axes, pairs) and positions (axes, ...)."""
    of = Frequencies(frequencies[None].astype(np.float64))
    exact = np.int64 if positions.dtype.kind in "iu" else np.float64
    places = np.ascontiguousarray(positions.reshape(of.axes, -1), exact)
    table = np.empty((2, 1, places.shape[1], of.pairs), dtype)
    host().fill_table(of, places, 1.0, table, 0)
    return table.reshape((2, *positions.shape[1:], of.pairs))


def _differentiable(positions: Array, frequencies: Array, table: HostArray) -> tuple[Array, Array]:
    """Return cosine and sine of a table as functions of positions and frequencies for MLX."""
    import mlx.core as mx

    def constant(positions: Array, frequencies: Array) -> tuple[Array, Array]:  # noqa: ARG001  (MLX differentiates by them)
        return mx.array(table[0]), mx.array(table[1])

    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[Array, Array]:
        places, values = primals
        (cosine, sine), (by_cosine, by_sine) = outputs, cotangents
        by_angle = by_sine * cosine - by_cosine * sine
        axes = list(range(by_angle.ndim - 1))
        by_position = [(by_angle * row).sum(-1) for row in values]
        by_frequency = [(by_angle * place[..., None]).sum(axes) for place in places]
        return mx.stack(by_position).astype(places.dtype), mx.stack(by_frequency)

    def jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
        places, values = primals
        by_position, by_frequency = tangents  # None for what is constant
        moved = mx.zeros((*places.shape[1:], values.shape[1]), values.dtype)
        for axis in range(values.shape[0]):
            if by_position is not None:
                moved = moved + by_position[axis][..., None] * values[axis]
            if by_frequency is not None:
                moved = moved + places[axis][..., None] * by_frequency[axis]
        cosine, sine = _differentiable(places, values, table)
        return -sine * moved, cosine * moved

    cos_sin: Any = mx.custom_function(constant)
    cos_sin.vjp(vjp)
    cos_sin.jvp(jvp)
    cosine, sine = cos_sin(positions, frequencies)
    return cosine, sine
