"""Where each row stands: masks, packed sequences, grids, clocks and slices as exact positions.

What belongs to images and video, to mixed sequences and to long contexts has modules of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import array_api_compat
import numpy as np

from . import _libraries as libraries
from ._checks import as_integer, as_positive_integer
from ._distances import DualChunk, NearFar, dual_chunk, rerope, self_extend
from ._grids import grid
from ._multimodal import Audio, Image, Mixed, Text, Video, mixed
from ._numbers import Number, Positions, as_positions, bounds_of, check_reach, found, host_array
from ._times import (
    attoseconds_of,
    check_resolution,
    check_same_kind,
    counted,
    counted_in,
    elapsed,
    read_origin,
    read_quantity,
    read_times,
    read_unit,
)
from ._typing import Array, HostArray, Int64Array

__all__ = [
    "Audio",
    "Clock",
    "DualChunk",
    "Image",
    "Mixed",
    "NearFar",
    "Text",
    "Video",
    "dual_chunk",
    "from_mask",
    "grid",
    "mixed",
    "ragged",
    "rerope",
    "self_extend",
    "timestamps",
    "zigzag",
]


def __dir__() -> list[str]:
    return __all__


ArrayT = TypeVar("ArrayT")


def from_mask(mask: ArrayT, *, padding: int = 0) -> ArrayT:
    """Count the attended tokens of every row.

    Parameters
    ----------
    mask : array (B, S) or (S,), bool or integer
        True or 1 where a token is attended, False or 0 where it is padding, on either side or
        in between. Of any array library; lists count as NumPy.
    padding : int
        The position given to padding. It only has to be a valid one, since padding is not
        attended.

    Returns
    -------
    int64 array, shape and library of `mask`
        0 for the first attended token of a row, 1 for the second, `padding` where masked. Under
        JAX with 64-bit types off it is int32, JAX's own integer.

    Raises
    ------
    TypeError
        If the mask is neither bool nor integer (a floating mask is one to be added to scores,
        with 0 for attended tokens), or `padding` is not an integer.
    ValueError
        If it has neither one nor two axes, holds integers besides 0 and 1, or `padding` is
        outside int64. Masks that are traced, lazy or on a device are not looked into: there
        everything but 0 is attended.

    Examples
    --------
    The second row is padded on the left.

    >>> import numpy as np
    >>> from_mask(np.array([[1, 1, 1, 0], [0, 0, 1, 1]]), padding=-1)
    array([[ 0,  1,  2, -1],
           [-1, -1,  0,  1]])
    """
    fill = as_integer(padding, "padding")
    check_reach(fill, "padding")
    array, xp = _mask_array(mask)
    if not libraries.has_int64(array) and abs(fill) >= 2**31:
        msg = f"`padding` must be within int32 where JAX's 64-bit types are off, got {fill}"
        raise ValueError(msg)
    attended = array if xp.isdtype(array.dtype, "bool") else array != 0
    counted = xp.cumulative_sum(xp.astype(attended, _integer_dtype(xp)), axis=-1) - 1
    positions: ArrayT = xp.where(attended, counted, xp.full_like(counted, fill))
    return positions


def ragged(
    cu_seqlens: Sequence[int] | HostArray, *, offset: Number | Sequence[Number] | HostArray = 0
) -> Positions:
    """Count from the start of every sequence in a packed batch.

    Parameters
    ----------
    cu_seqlens : sequence or array of int (n + 1,)
        Where the n sequences begin, and where the last one ends: 0 first, never decreasing. Two
        equal neighbours are an empty sequence.
    offset : number, or sequence or array of numbers (n,)
        The position of a sequence's first token, for all or for each.

    Returns
    -------
    array (total,)
        Positions restarting at `offset` in every sequence: int64, or float64 where offsets are
        floats.

    Raises
    ------
    TypeError
        If `cu_seqlens` holds anything but integers, or `offset` anything but numbers.
    ValueError
        If `cu_seqlens` does not start at 0, decreases or is not one-dimensional, if there is not
        one offset per sequence, or if a position would leave int64.

    Examples
    --------
    >>> ragged([0, 3, 5])
    array([0, 1, 2, 0, 1])
    >>> ragged([0, 3, 5], offset=[10, 0])
    array([10, 11, 12,  0,  1])
    """
    bounds = bounds_of(cu_seqlens)
    lengths = np.diff(bounds)
    starts = as_positions(offset, name="offset")
    if starts.ndim and starts.shape != lengths.shape:
        msg = (
            f"`offset` must be one number or one per sequence, ({len(lengths)},), "
            f"got shape {starts.shape}"
        )
        raise ValueError(msg)
    each: HostArray = np.broadcast_to(starts, lengths.shape)
    for start, length in zip(each.tolist(), lengths.tolist(), strict=True):
        if length:
            check_reach(start + (length - 1), "offset", told=" as the last position")
    counts = np.arange(bounds[-1], dtype=np.int64) - np.repeat(bounds[:-1], lengths)
    positions: Positions = counts + np.repeat(each, lengths)
    return positions


def timestamps(times: Any, *, unit: str, origin: Any) -> Positions:
    """Turn times into positions: how many units each lies after the origin.

    Rotary attention sees differences of positions only, so any origin will do, if queries and
    keys, now and in a cache, share it. `Clock` keeps one.

    Parameters
    ----------
    times : array, sequence or scalar
        Dates: ``datetime64`` of any unit, `datetime.datetime` and `datetime.date`, and whatever
        becomes these as a NumPy array, such as a pandas index. Dates with a time zone are
        converted to UTC, and dates without one are taken to be UTC. Durations: ``timedelta64`` or
        `datetime.timedelta`. Numbers: integers and floats that count `unit`. Quantities of astropy or
        pint in any unit of time: their own unit is converted, exactly.
    unit : str
        What one step of position is: ``"W"``, ``"D"``, ``"h"``, ``"m"`` (minutes), ``"s"``,
        ``"ms"``, ``"us"``, ``"ns"``, ``"ps"``, ``"fs"`` or ``"as"``, or a multiple such as
        ``"40ms"``. Months and years have no fixed length and are refused.
    origin : date, duration or number
        What becomes position 0, of the same kind as `times`; a date may be a string such as
        ``"2024-01-01T12:00"``. For numbers it is a number of the same units. For quantities it is a
        number of `unit`, a duration or a quantity.

    Returns
    -------
    array, shape of `times`
        ``(times - origin) / unit``: int64 if every one is a whole number, else float64, each
        correctly rounded. Which of the two depends on the values, not on the dtype they came
        in; equal values are equal positions in either.

    Raises
    ------
    TypeError
        If `times` holds anything else, or `origin` is of another kind than `times`.
    ValueError
        If a time is missing (NaT, NaN) or infinite, a position would leave int64, the unit is
        unknown, or the times are floats too coarse to be told apart (see Notes).

    Notes
    -----
    The subtraction is done in exact integers of the finest unit involved, before anything is
    divided or becomes a float. float64 numbers hold what they hold: unix time in them is good to
    2.4e-7 seconds, or to 256 nanoseconds if it counts nanoseconds.

    float32, float16 and bfloat16 numbers are held against their own resolution, the distance of
    neighbouring values of the dtype at the largest time of a row (128 s in float32 at today's
    unix time). Where it is coarser than one unit, a row is refused that has a single time, times
    that coincide, or different times no further apart than the resolution. Where it is not, a row
    is refused that has both of the latter. What rounding took cannot be brought back by a
    conversion: subtract the origin in the precision the times were recorded in. Times that are
    right as they are pass as ``times.astype("float64")``.

    Examples
    --------
    >>> import numpy as np
    >>> days = np.array(["2024-02-28", "2024-03-01"], dtype="datetime64[D]")
    >>> timestamps(days, unit="D", origin="2024-01-01")
    array([58, 60])
    >>> timestamps(days, unit="W", origin="2024-02-28")
    array([0.        , 0.28571429])
    >>> timestamps([1_700_000_000, 1_700_000_060], unit="s", origin=1_700_000_000)
    array([ 0, 60])
    """
    return Clock(unit=unit, origin=origin)(times)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A unit and an origin, kept together: `timestamps` with both stored.

    Parameters
    ----------
    unit : str
        What one step of position is, as in `timestamps`.
    origin : date, duration or number
        What becomes position 0, as in `timestamps`. Dates are kept as ``datetime64`` in UTC, in
        the longest unit that holds them exactly, so that equal clocks compare equal.

    Raises
    ------
    TypeError
        If the unit is not a string, or the origin is no date, duration or number.
    ValueError
        If the unit or the origin is not a valid one.

    Examples
    --------
    >>> clock = Clock(unit="ms", origin="2024-01-01T12:00+01:00")
    >>> clock
    Clock(unit='ms', origin=np.datetime64('2024-01-01T11','h'))
    >>> import numpy as np
    >>> clock(np.datetime64("2024-01-01T11:00:00.250"))
    array(250)
    """

    unit: str
    origin: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", read_unit(self.unit)[0])
        object.__setattr__(self, "origin", read_origin(self.origin, self.unit))

    def __call__(self, times: Any) -> Positions:
        """Return the positions of `times`, as `timestamps` does.

        Parameters
        ----------
        times : array, sequence or scalar
            Times of the origin's kind.

        Returns
        -------
        array, shape of `times`
            int64 if every position is a whole number, else float64.
        """
        if libraries.unit_of(times) is not None:
            return self._of_quantity(times)
        values = read_times(times)
        if not values.size:
            return np.zeros(values.shape, np.int64)
        check_same_kind(values, self.origin)
        if isinstance(self.origin, np.datetime64 | np.timedelta64):
            return elapsed(values, self.origin, read_unit(self.unit)[1])
        numbers = as_positions(times, name="times", coarse=True)
        check_resolution(values)
        return counted(numbers, self.origin)

    def _of_quantity(self, times: Any) -> Positions:
        """Return the positions of times that have a unit of their own."""
        values, tick = read_quantity(times, self.unit, "times")
        if not values.size:
            return np.zeros(values.shape, np.int64)
        unit = read_unit(self.unit)[1]
        if isinstance(self.origin, np.datetime64 | np.timedelta64):
            check_same_kind(np.empty(0, "m8[s]"), self.origin)
            start = Fraction(attoseconds_of(self.origin))
        else:
            start = Fraction(self.origin) * unit
        positions = counted_in(values, tick, start, unit)
        check_resolution(values, float(tick / unit))
        return positions


def zigzag(length: int, *, rank: int, world: int) -> Int64Array:
    """Give the positions that one device of a context-parallel group holds.

    The sequence is cut into ``2 * world`` equal chunks, and device r takes chunk r and chunk
    ``2 * world - 1 - r``, an early and a late one, so that under a causal mask all devices have
    the same work.

    Parameters
    ----------
    length : int
        The whole sequence, a multiple of ``2 * world``.
    rank : int
        Which device, from 0.
    world : int
        How many devices.

    Returns
    -------
    int64 array (length / world,)
        The positions of the device's rows, in the order it holds them.

    Raises
    ------
    TypeError
        If an argument is not an integer.
    ValueError
        If `length` does not divide or is outside int64, or `rank` is not below `world`.

    Examples
    --------
    >>> zigzag(8, rank=0, world=2), zigzag(8, rank=1, world=2)
    (array([0, 1, 6, 7]), array([2, 3, 4, 5]))
    """
    devices = as_positive_integer(world, "world")
    device = as_integer(rank, "rank")
    if not 0 <= device < devices:
        msg = f"`rank` must be at least 0 and below `world` = {devices}, got {device}"
        raise ValueError(msg)
    total = as_integer(length, "length")
    if total < 0 or total % (2 * devices):
        msg = f"`length` must be a multiple of 2 * `world` = {2 * devices}, got {total}"
        raise ValueError(msg)
    check_reach(total, "length")
    chunk = total // (2 * devices)
    early, late = device * chunk, (2 * devices - 1 - device) * chunk
    return np.concatenate(
        [np.arange(begin, begin + chunk, dtype=np.int64) for begin in (early, late)]
    )


def _mask_array(mask: Any) -> tuple[Array, Any]:
    """Return a checked mask and its array library."""
    array = host_array(mask, "mask") if isinstance(mask, list | tuple) else mask
    kind = f"an object of type {type(mask).__name__}"
    if not libraries.is_masked_or_matrix(array):
        try:
            xp = array_api_compat.array_namespace(array)
            kind = str(array.dtype)
            valid = xp.isdtype(array.dtype, ("bool", "integral"))
        except TypeError:  # no array, or a dtype that is not the library's own
            valid = False
        if valid:
            _check_mask(array)
            return array, xp
    msg = f"`mask` must be an array of bool, or of integers 0 and 1, got {kind}"
    raise TypeError(msg)


def _check_mask(mask: Array) -> None:
    """Refuse masks of other ranks, and integers besides 0 and 1 where they can be read."""
    if mask.ndim not in {1, 2}:
        msg = f"`mask` must have shape (B, S) or (S,), got {mask.ndim} axes"
        raise ValueError(msg)
    values = libraries.to_host(mask)
    if values is not None and values.dtype.kind != "b":
        other = (values != 0) & (values != 1)
        if other.any():
            msg = f"`mask` must hold 0 and 1 only, got {found(values, other)}"
            raise ValueError(msg)


def _integer_dtype(xp: Any) -> Any:
    """Return int64, or the integer that JAX has in its place with 64-bit types off."""
    return xp.asarray(0).dtype if array_api_compat.is_jax_namespace(xp) else xp.int64
