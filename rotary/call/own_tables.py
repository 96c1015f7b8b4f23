"""The tables that a caller of `apply_rotary` gives: checked once for each kind of call, and read in every call."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_bool, as_integer
from rotary._lib.libraries import UNKNOWN
from rotary._lib.typing import Array, HostArray, Int64Array
from rotary.backends.contract import (
    ArraySpec,
    Axes,
    Pairing,
    Table,
    TablesCall,
    TracedTable,
    reorder_axes,
)
from rotary.layouts import Layout, check_layout

from .arrays import as_outputs, check_array, check_has_library, check_no_overlap, check_unmasked
from .rows import PositionShape
from .shapes import NamedShape, axes_key, axes_of, axis_options, compute_dtype, shape_of

TABLE_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})
NAMES = ("cos", "sin")


class TableOptions(NamedTuple):
    """The arguments of `apply_rotary` beside its arrays, as the call gives them."""

    layout: Any
    rotary_start: Any
    seq_axis: Any
    batch_axis: Any
    inverse: Any

    def key(self) -> tuple[Hashable, ...] | None:
        """Return what a plan's key holds of them, None for arguments of other types than most calls give."""
        layout, start, seq_axis, batch_axis, inverse = self
        # Equal keys must mean equal calls: True equals 1, which is no boolean.
        if type(layout) is not str or type(start) is not int or type(inverse) is not bool:
            return None
        axes: tuple[Hashable, ...] = seq_axis, batch_axis
        if type(seq_axis) is not int or batch_axis is not None:
            try:
                axes = axes_key(seq_axis, batch_axis, 1)
            except (TypeError, ValueError):
                return None
        return ("tables", layout, start, inverse, *axes)


# ------------------------------------------------------------------------------------------------
# Checking.


def tables_call(options: TableOptions, x: Any, tables: tuple[Any, Any], out: Any) -> TablesCall:
    """Return a call of `apply_rotary` as backends plan it, checked."""
    for part, name in zip((x, *tables), ("x", *NAMES), strict=True):
        check_has_library(part, name)
    check_array(x, "x")
    check_layout(options.layout)
    inverse = as_bool(options.inverse, "inverse")
    shape = shape_of(x, "x")
    (axes,) = axes_of([shape], axis_options(options.seq_axis, options.batch_axis, 1))
    sizes = _checked_sizes(tables, shape, axes)
    reader, axes = _reader(x, tables, sizes, shape, axes)
    start = _checked_start(options.rotary_start, shape, sizes[-1])
    (output,) = as_outputs(out, (x,), ("x",))
    if output is not None:
        check_no_overlap(output, tables, NAMES)
    layout: Layout = options.layout
    pairing = Pairing(start, sizes[-1], layout, layout, inverse)
    return TablesCall(
        array=x,
        tables=tables,
        output=output,
        spec=ArraySpec(axes, (pairing,), compute_dtype(shape.dtype)),
        on_host=_are_on_host(x, tables),
        read=reader,
        check_output=_check_output,
    )


def _checked_sizes(tables: tuple[Any, Any], shape: NamedShape, axes: Axes) -> tuple[int, ...]:
    """Return the shape of both tables, which have to fit an array."""
    for part, name in zip(tables, NAMES, strict=True):
        _check_table(part, name, shape, axes)
    cosine, sine = (tuple(part.shape) for part in tables)
    if cosine != sine:
        msg = f"`sin` must have the shape of `cos`, {cosine}, got {sine}"
        raise ValueError(msg)
    return cosine


def _check_table(part: Any, name: str, shape: NamedShape, axes: Axes) -> None:
    """Raise unless a caller's table is floating and fits an array."""
    check_unmasked(part, name)
    own = shape_of(part, name)
    if own.dtype not in TABLE_DTYPES:
        msg = f"`{name}` must be floating, got dtype {part.dtype}"
        raise TypeError(msg)
    length = shape.sizes[axes.sequence]
    fit = PositionShape(shape.name, shape.sizes[:-1], axes)
    if (
        own.sizes[:-1] != (length,)
        and not _fits_batch(own.sizes, shape, axes)
        and not fit.fits_shape(own.sizes[:-1])
    ):
        each = "" if fit.batch is None else f", ({fit.batch}, {length}, r/2)"
        if len(fit.sizes) > 1:
            each += f" or ({', '.join(map(str, fit.size_texts()))}, r/2)"
        msg = f"`{name}` must have shape ({length}, r/2){each} for x of {shape}, got {own}"
        raise ValueError(msg)


def _fits_batch(sizes: tuple[int, ...], shape: NamedShape, axes: Axes) -> bool:
    """Return whether a table has the shape (1, S, r/2) or (B, S, r/2)."""
    fit = PositionShape(shape.name, shape.sizes[:-1], axes)
    length = shape.sizes[axes.sequence]
    return len(sizes) == 3 and fit.fits_batch(sizes[0]) and sizes[1] in (length, UNKNOWN)


def _checked_start(rotary_start: Any, shape: NamedShape, pairs: int) -> int:
    """Return the first channel that rotates, checked against the channels there are."""
    start = as_integer(rotary_start, "rotary_start")
    width = pairs if shape.is_complex else 2 * pairs
    channels = shape.sizes[-1]
    if start < 0:
        msg = f"`rotary_start` must be at least 0, got {start}"
        raise ValueError(msg)
    if not width or start + width > channels:
        msg = (
            f"`cos` must hold one number for each pair of channels of x: width {pairs} turns {width} "
            f"channels from {start} on, of {channels}; of a table that holds every number twice, "
            "give one half"
        )
        raise ValueError(msg)
    return start


def _check_output(x: Array, tables: tuple[Array, Array], output: Array) -> None:
    """Raise unless an output can hold the result, of which all but addresses and flags was checked."""
    apart = tables if output is x else (x, *tables)
    if (
        type(output) is np.ndarray
        and output.flags.writeable
        and not any(
            type(each) is not np.ndarray or np.may_share_memory(output, each) for each in apart
        )
    ):
        return
    as_outputs(output, (x,), ("x",))
    check_no_overlap(output, tables, NAMES)


# ------------------------------------------------------------------------------------------------
# Reading.


class TableReader:
    """Reads the tables of one kind of call, in the library of its array and the dtype that it is computed in.

    Parameters
    ----------
    x : array
        Of the first call.
    ordered : callable or None
        Puts a table with a size for each axis of the array in the order that its axes need.
    index : int64 array (*extra, batch or 1, sequence), or None
        Which row each token reads, if array and tables are known on the host.
    as_given : bool
        Whether tables are of the library and dtype that they are read in.
    """

    __slots__ = ("_as_given", "_dtype", "_index", "_on_cupy", "_ordered", "_xp")

    def __init__(
        self,
        x: Array,
        ordered: Callable[[Array], Array] | None,
        index: Int64Array | None,
        *,
        as_given: bool,
    ) -> None:
        self._xp = libraries.namespace(x)
        self._dtype = compute_dtype(libraries.dtype_name(x))
        self._ordered, self._index, self._as_given = ordered, index, as_given
        self._on_cupy = _is_of_cupy(x)

    def __call__(self, x: Array, tables: tuple[Array, Array]) -> Table | TracedTable:
        """Return the tables of a call as backends read them."""
        cosine, sine = tables
        if not self._as_given:
            known = type(cosine) is type(sine) is np.ndarray
            if self._on_cupy and known and cosine.dtype == sine.dtype:
                both = self._converted(x, np.stack([cosine, sine]), "cos")  # in one upload
                cosine, sine = both[0], both[1]
            else:
                cosine, sine = self._converted(x, cosine, "cos"), self._converted(x, sine, "sin")
        if self._ordered is not None:
            cosine, sine = self._ordered(cosine), self._ordered(sine)
        if self._index is not None:
            values = np.empty((2, 1, self._index.size, cosine.shape[-1]), self._dtype)
            values[0, 0] = cosine.reshape(values.shape[2:])
            values[1, 0] = sine.reshape(values.shape[2:])
            return Table(values, self._index, 0, self._index.shape[-1])
        if len(cosine.shape) == 2:
            return TracedTable(cosine[None, None, ...], sine[None, None, ...])
        return TracedTable(cosine[None, ...], sine[None, ...])

    def _converted(self, x: Array, part: Array, name: str) -> Array:
        """Return a table in the library and on the device of an array; a traced one stays in its own."""
        dtype, on_host = self._dtype, isinstance(x, np.ndarray)
        known = isinstance(part, np.ndarray)
        if not known and libraries.namespace(part) is not self._xp:
            host = libraries.to_host(part)
            if host is None and not on_host:
                msg = f"`{name}` must be of the library of `x`, or known on the host, got {type(part)}"
                raise TypeError(msg)
            known, part = host is not None, part if host is None else host
        if known and not on_host:
            part = part.astype(dtype)
            return _upload(part, x) if self._on_cupy else libraries.from_host(part, self._xp, x)
        if self._index is not None or libraries.dtype_name(part) == dtype:
            return part
        xp = libraries.namespace(part)
        return xp.astype(part, getattr(xp, dtype))


def _upload(table: HostArray, x: Array) -> Array:
    """Return a table of the host in the memory of the GPU of a CuPy array."""
    from rotary.backends.cuda import memory

    return memory.upload(table, x)


def _is_of_cupy(x: Array) -> bool:
    """Return whether an array is one of CuPy, to which NumPy arrays are copied by its driver alone."""
    if isinstance(x, np.ndarray):
        return False
    from rotary.backends.cuda import memory

    return memory.owner_of(x) == memory.CUPY


def _reader(
    x: Array, tables: tuple[Array, Array], sizes: tuple[int, ...], shape: NamedShape, axes: Axes
) -> tuple[TableReader, Axes]:
    """Return what reads the tables of a call, and the axes of the array on which they differ."""
    ordered = None
    leading = (1, *sizes[:-1])
    if _fits_batch(sizes, shape, axes):
        leading = sizes[:-1]
    elif len(sizes) > 2:
        axes, order = axes.for_positions(sizes[:-1], by_head=False)
        ordered = partial(reorder_axes, axes=axes, order=order, lead=0, tail=1)
        leading = tuple(sizes[axis] for axis in order)
        if len(order) < len(axes.extra) + 2:
            leading = (*leading[:-1], 1, leading[-1])
    dtype = compute_dtype(shape.dtype)
    kinds = {type(x), type(tables[0]), type(tables[1])}
    as_given = len(kinds) == 1 and all(libraries.dtype_name(part) == dtype for part in tables)
    index = None
    if _are_on_host(x, tables):
        index = np.arange(math.prod(leading), dtype=np.int64).reshape(leading)
    return TableReader(x, ordered, index, as_given=as_given), axes


def _are_on_host(x: Array, tables: tuple[Array, Array]) -> bool:
    """Return whether NumPy's kernels can rotate an array by tables."""
    return isinstance(x, np.ndarray) and all(libraries.to_host(part) is not None for part in tables)
