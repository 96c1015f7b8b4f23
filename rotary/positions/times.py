"""Positions of dates, durations and numbers, computed with exact integers until the last division."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias, cast

import numpy as np

from rotary._lib import libraries
from rotary._lib.libraries import DATES
from rotary._lib.numbers import (
    EXACT,
    INT64,
    TOO_LARGE,
    BoolArray,
    Number,
    Positions,
    as_positions,
    check_int64_range,
    first_bad,
    host_array,
    leaves,
)
from rotary._lib.typing import AnyArray, Float64Array, HostArray, PositionsLike, RealLike

Instant: TypeAlias = "np.datetime64[Any] | np.timedelta64[Any]"
Origin: TypeAlias = "Instant | Number"
DateLike: TypeAlias = "dt.date | dt.timedelta | Instant"
TimesLike: TypeAlias = (
    "DateLike | PositionsLike | Sequence[DateLike] | Sequence[Sequence[DateLike]]"
)
OriginLike: TypeAlias = "str | DateLike | RealLike | AnyArray"

# NumPy's units of fixed length, in attoseconds, longest first.
ATTOSECONDS = {
    "W": 604_800 * 10**18,
    "D": 86_400 * 10**18,
    "h": 3_600 * 10**18,
    "m": 60 * 10**18,
    "s": 10**18,
    "ms": 10**15,
    "us": 10**12,
    "ns": 10**9,
    "ps": 10**6,
    "fs": 10**3,
    "as": 1,
}

# Unit names for libraries of quantities, in which "m" means meter.
UNIT_NAMES = {"W": "week", "D": "day", "h": "hour", "m": "minute"}

UNIT = re.compile(r"([1-9][0-9]*)?([A-Za-z]+)")

ISO_DATE = re.compile(
    r"(?P<local>(?P<second>[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}(:[0-9]{2}(:[0-9]{2})?)?)?)"
    r"(\.[0-9]{1,18})?)"
    r"(?P<zone>Z|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?)?"
)


def read_unit(unit: Any) -> tuple[str, int]:
    """Return a unit as NumPy formats it, and the length of the unit in attoseconds."""
    if not isinstance(unit, str):
        msg = f"`unit` must be a string such as 'ms' or '40ms', got {type(unit).__name__}"
        raise TypeError(msg)
    parts = UNIT.fullmatch(unit)
    if parts is None or parts[2] not in ATTOSECONDS:
        known = ", ".join(ATTOSECONDS)
        msg = f"`unit` must be one of {known}, or a multiple such as '40ms', got {unit!r}"
        if parts is not None and parts[2] in {"Y", "M"}:
            msg += "; years and months have no fixed length"
        raise ValueError(msg)
    count = int(parts[1] or 1)
    return unit if count > 1 else parts[2], count * ATTOSECONDS[parts[2]]


def read_origin(origin: Any, unit: str) -> Origin:
    """Return an origin as a number in units of `unit`, or as a date or duration in the longest exact unit."""
    if isinstance(origin, str):
        return _longest_unit(_read_date(origin))
    if libraries.unit_of(origin) is not None:
        numbers, tick = read_quantity(origin, unit, "origin")
        if numbers.ndim:
            msg = f"`origin` must be one date, duration or number, got shape {numbers.shape}"
            raise ValueError(msg)
        start: Number = counted_in(numbers, tick, Fraction(0), read_unit(unit)[1], "origin").item()
        return start
    array = host_array(origin, "origin")
    if array.ndim:
        msg = f"`origin` must be one date, duration or number, got shape {array.shape}"
        raise ValueError(msg)
    value: Any = array[()]
    if isinstance(value, DATES):
        instant = _instant(value)
        if np.isnat(instant):
            msg = "`origin` must be a date or a duration, got NaT"
            raise ValueError(msg)
        return _longest_unit(instant)
    if array.dtype.kind in "bOSU" and type(value) is not int:
        msg = f"`origin` must be a date, a duration or a number, got {type(origin).__name__}"
        raise TypeError(msg)
    number: Number = as_positions(origin, name="origin").item()
    return number


def read_times(times: Any) -> HostArray:
    """Return times as a NumPy array without missing dates.

    The dtype is datetime64, timedelta64 or numeric. If dates or durations have different units, the dtype is object,
    and each element is an `np.datetime64` or `np.timedelta64`.
    """
    first = next(leaves(times, "times"), None)
    # NumPy would convert a list of dates to one unit, in which some dates may overflow.
    is_list = isinstance(times, list | tuple) and isinstance(first, DATES)
    array = host_array(np.array(times, dtype=object) if is_list else times, "times")
    if array.dtype.kind in "mM":
        _refuse_missing(array, np.isnat(array))
    elif array.dtype.kind == "O" and any(isinstance(item, DATES) for item in array.flat):
        return _instants(array)
    elif array.dtype.kind in "bSU":
        msg = f"`times` must be dates, durations or numbers, got {array.dtype}"
        raise TypeError(msg)
    return array


def read_quantity(value: Any, unit: str, name: str) -> tuple[HostArray, Fraction]:
    """Return the numbers of a quantity, and the length of their unit in attoseconds.

    The library of the quantity converts the unit only, because a conversion of the numbers would round.
    """
    given_unit = libraries.unit_of(value)
    letters = unit.lstrip("0123456789")
    tick: Fraction | None = None
    if isinstance(given_unit, str) and given_unit in ATTOSECONDS:
        tick = Fraction(ATTOSECONDS[given_unit])
    else:
        with suppress(Exception):  # an unknown library may raise any exception
            seconds = float(_numbers_of((1 * given_unit).to("s")))
            # Fifteen digits: the definition of the unit, without the digits of the rounding to float64.
            tick = Fraction(f"{seconds:.15g}") * ATTOSECONDS["s"]
    if tick is None:
        with suppress(Exception):
            value = value.to(UNIT_NAMES.get(letters, letters))
            tick = Fraction(ATTOSECONDS[letters])
    numbers = _numbers_of(value)
    if tick is None or numbers is None:
        msg = f"`{name}` must be in a unit that its library converts to {unit!r}, got {str(given_unit)!r}"
        raise TypeError(msg)
    return host_array(numbers, name), tick


def _numbers_of(quantity: Any) -> Any:
    """Return the numbers of a quantity of pint or astropy; None for other values."""
    numbers = getattr(quantity, "magnitude", None)
    return getattr(quantity, "value", None) if numbers is None else numbers


def counted_in(
    times: HostArray, tick: Fraction, start: Fraction, unit: int, name: str = "times"
) -> Positions:
    """Return ``(times * tick - start) / unit``, rounded once; `tick`, `start` and `unit` are in attoseconds."""
    numbers = as_positions(times, name=name, coarse=True)
    if (numbers == np.trunc(numbers)).all():
        numbers = numbers.astype(np.int64, copy=False)
    if numbers.dtype == np.int64:
        denominator = math.lcm(tick.denominator, start.denominator)
        scale, begin = int(tick * denominator), int(start * denominator)
        divisor = unit * denominator
        common = math.gcd(scale, begin, divisor)
        difference = _difference(numbers, scale // common, begin // common)
        return _quotient(difference, divisor // common)
    exact = [(Fraction(t) * tick - start) / unit for t in numbers.ravel().tolist()]
    if all(position.denominator == 1 for position in exact):
        for position in exact:
            check_int64_range(int(position), name, suffix=" from the origin")
        return np.array(list(map(int, exact)), np.int64).reshape(numbers.shape)
    return _checked_floats(np.array(list(map(float, exact)), np.float64).reshape(numbers.shape))


def check_same_kind(times: HostArray, origin: Origin) -> None:
    """Raise unless times and origin are all dates, all durations or all numbers."""
    kind_of_origin = _kind_of(type(origin))
    kinds = {type(item) for item in times.flat} if times.dtype.kind == "O" else {times.dtype.type}
    for kind in map(_kind_of, kinds):
        if kind != kind_of_origin:
            msg = f"`origin` must be of the same kind as `times`, {kind}, got {origin!r}"
            raise TypeError(msg)


def elapsed(times: HostArray, origin: Instant, unit: int) -> Positions:
    """Return ``(times - origin) / unit`` for dates or durations; `unit` is in attoseconds."""
    ticks, tick = _ticks(times)
    start = attoseconds_of(origin)
    common = math.gcd(tick, start, unit)
    return _quotient(_difference(ticks, tick // common, start // common), unit // common)


def counted(times: Positions, origin: Number) -> Positions:
    """Return ``times - origin`` for numbers: int64 if all differences are whole numbers, else float64."""
    if isinstance(origin, float) and origin.is_integer():
        origin = int(origin)
    if (times == np.trunc(times)).all():
        times = times.astype(np.int64, copy=False)
    whole = times.dtype == np.int64
    if whole and isinstance(origin, int):
        return _quotient(_difference(times, 1, origin), 1)
    if abs(origin) > EXACT or (whole and _size(times) > EXACT):
        differences = [float(Fraction(t) - Fraction(origin)) for t in times.ravel().tolist()]
        return _checked_floats(np.array(differences, np.float64).reshape(times.shape))
    return _float_difference(times.astype(np.float64, copy=False), float(origin))


def check_resolution(times: HostArray, units: float = 1.0) -> None:
    """Raise for floats shorter than float64 that cannot distinguish the times; `units` converts them to units."""
    if times.dtype.itemsize >= 8 or np.can_cast(times.dtype, np.int64):
        return
    rows = times.reshape(-1, times.shape[-1] if times.ndim else 1)
    largest = np.abs(rows).max(axis=-1)
    below = np.nextafter(largest, np.zeros_like(largest))
    resolution = largest.astype(np.float64) - below.astype(np.float64)
    gaps = np.diff(np.sort(rows.astype(np.float64), axis=-1), axis=-1)
    spacing = np.min(gaps, axis=-1, where=gaps > 0, initial=np.inf)
    is_close = spacing <= resolution
    has_equal = (gaps == 0).any(axis=-1)
    is_single = np.isinf(spacing)
    any_doubt = is_close | has_equal | is_single
    refused = np.where(resolution * units > 1.0, any_doubt, is_close & has_equal)
    if refused.any():
        row = int(np.argmax(refused))
        msg = (
            f"`times` must have a dtype that distinguishes them, got {times.dtype} near "
            f"{float(largest[row]):g}, whose adjacent numbers are {resolution[row]:g} units "
            "apart; pass the recorded times as integers, float64 or datetime64, or subtract the origin "
            "from them, because no conversion of this array undoes the rounding"
        )
        raise ValueError(msg)


def _read_date(text: str) -> np.datetime64[Any]:
    """Parse a date in ISO 8601, and convert it to UTC if it has a time zone."""
    parts = ISO_DATE.fullmatch(text)
    # A zone is accepted only after a time of day, because the end of "2024-01-31-05" is ambiguous.
    if parts is not None and not (parts["zone"] and len(parts["second"]) == len("2024-01-31")):
        minutes = 60 * int(parts["hours"] or 0) + int(parts["minutes"] or 0)
        try:
            local = np.datetime64(parts["local"])
            # NumPy does not report an overflow caused by a fraction of a second in a distant year.
            if local.astype("M8[s]") == np.datetime64(parts["second"], "s"):
                ahead = np.timedelta64(-minutes if parts["sign"] == "-" else minutes, "m")
                utc: np.datetime64[Any] = local - ahead
                return utc
        except ValueError:  # the day or hour does not exist
            pass
    msg = f"`origin` must be a date such as '2024-01-31T12:00:00.5+01:00', got {text!r}"
    raise ValueError(msg)


def _instant(value: Any) -> Instant:
    """Convert a date (to UTC) or a duration of Python, pandas or NumPy to a NumPy scalar."""
    result: Instant
    if isinstance(value, np.datetime64 | np.timedelta64):
        result = value
    elif hasattr(value, "to_datetime64"):  # pandas has nanoseconds, Python's types do not
        result = value.to_datetime64()
    elif hasattr(value, "to_timedelta64"):
        result = value.to_timedelta64()
    elif isinstance(value, dt.timedelta):
        result = np.timedelta64(value)
    elif isinstance(value, dt.datetime):
        ahead = value.utcoffset() or dt.timedelta(0)
        result = np.datetime64(value.replace(tzinfo=None)) - np.timedelta64(ahead)
    else:
        result = np.datetime64(value)
    return result


def _instants(array: HostArray) -> HostArray:
    """Convert an object array of dates or durations to NumPy scalars, without rounding."""
    items = array.ravel().tolist()
    if all(type(item) is dt.datetime and item.tzinfo is None for item in items):
        return array.astype("M8[us]")
    for item in items:
        if not isinstance(item, DATES):
            msg = f"`times` must be of one kind, got both dates and {type(item).__name__}"
            raise TypeError(msg)
    instants = np.empty(len(items), object)
    instants[:] = list(map(_instant, items))
    missing = np.array(list(map(np.isnat, instants)), bool)
    _refuse_missing(array, missing.reshape(array.shape))
    return instants.reshape(array.shape)


def _refuse_missing(times: HostArray, missing: BoolArray) -> None:
    """Raise for NaT."""
    if missing.any():
        msg = f"`times` must not be missing, got {first_bad(times, missing)}"
        raise ValueError(msg)


def _kind_of(kind: type) -> str:
    if issubclass(kind, np.datetime64):
        return "dates"
    return "durations" if issubclass(kind, np.timedelta64) else "numbers"


def _ticks(values: HostArray, name: str = "times") -> tuple[HostArray, int]:
    """Return dates or durations as integers, and the unit of the integers in attoseconds."""
    if values.dtype.kind == "O":
        lengths = np.empty(values.size, object)
        lengths[:] = [attoseconds_of(item, name) for item in values.flat]
        return lengths.reshape(values.shape), 1
    unit, count = np.datetime_data(values.dtype)
    if values.dtype.kind == "M" and unit in {"Y", "M"}:
        days = values.astype("M8[D]")
        if (days.astype(values.dtype) != values).any():
            msg = (
                f"`{name}` must be within int64 days, got a date outside of them in {values.dtype}"
            )
            raise ValueError(msg)
        return days.astype(np.int64), ATTOSECONDS["D"]
    if unit not in ATTOSECONDS:
        msg = f"`{name}` must be in a unit of fixed length, got {values.dtype}"
        raise ValueError(msg)
    return values.astype(np.int64), count * ATTOSECONDS[unit]


def attoseconds_of(instant: Instant, name: str = "origin") -> int:
    """Return a duration, or the time from 1970 to a date, in attoseconds."""
    ticks, tick = _ticks(np.asarray(instant), name)
    return int(ticks) * tick


def _longest_unit(instant: Instant) -> Instant:
    """Convert a date or duration to the longest exact unit, at most days, so that equal times compare equal."""
    length = attoseconds_of(instant)
    for unit, size in ATTOSECONDS.items():
        # The smallest int64 is NaT.
        if unit != "W" and length % size == 0 and length // size in INT64[1:]:
            same: Any = np.array(length // size).astype(f"{instant.dtype.kind}8[{unit}]")
            longest: Instant = same[()]
            return longest
    return instant


def _size(integers: HostArray) -> int:
    """Return the largest absolute value as a Python integer, because it may be 2**63."""
    return max(abs(int(integers.min())), abs(int(integers.max())))


def _difference(ticks: HostArray, scale: int, start: int) -> HostArray:
    """Return ``scale * ticks - start``, with Python integers if int64 may overflow."""
    if _size(ticks) * scale + abs(start) >= TOO_LARGE or scale >= TOO_LARGE:
        ticks = ticks.astype(object)
    return np.asarray(scale * ticks - start)


def _quotient(numerator: HostArray, denominator: int) -> Positions:
    """Return a quotient of integers: int64 if all quotients are whole numbers, else float64."""
    # NumPy's division rounds once if both numbers are exact in float64. Python's rounds once for integers of any size.
    if denominator > EXACT:
        numerator = numerator.astype(object)
    if not np.any(numerator % denominator):
        whole = np.asarray(numerator // denominator)
        for end in int(whole.min()), int(whole.max()):
            check_int64_range(end, "times", suffix=" from the origin")
        return whole.astype(np.int64)
    if _size(numerator) > EXACT:
        numerator = numerator.astype(object)
    return _checked_floats(np.asarray(numerator / denominator, np.float64))


def _float_difference(times: Float64Array, origin: float) -> Positions:
    """Return ``times - origin`` rounded once: int64 if all differences are exact whole numbers."""
    difference = np.asarray(times - origin)
    # The rounding error of the subtraction, by Knuth's two-sum.
    subtracted = difference - times
    error = (times - (difference - subtracted)) - (origin + subtracted)
    _checked_floats(difference)
    if np.any(error) or np.any(difference != np.trunc(difference)):
        return difference
    return difference.astype(np.int64)


def _checked_floats(positions: Float64Array) -> Float64Array:
    """Raise for floats with a magnitude of 2**63 or more."""
    check_int64_range(float(np.abs(positions).max()), "times", suffix=" from the origin")
    return positions


def timestamps(times: TimesLike, *, unit: str, origin: OriginLike) -> Positions:
    """Convert times to positions: the number of units after an origin.

    Rotary attention depends only on differences of positions. So any origin may be used if it is the same
    for queries and keys, including cached keys. `Clock` stores unit and origin.

    Parameters
    ----------
    times : array, sequence or scalar
        Dates: ``datetime64`` of any unit, `datetime.datetime` and `datetime.date`, and objects that NumPy
        converts to dates, such as a pandas index. Dates with a time zone are converted to UTC, and dates
        without a time zone are in UTC. Durations: ``timedelta64`` or `datetime.timedelta`. Numbers: integers
        and floats in units of `unit`. Quantities of astropy or pint in any unit of time; the conversion is
        exact.
    unit : str
        The unit of positions: ``"W"``, ``"D"``, ``"h"``, ``"m"`` (minutes), ``"s"``,
        ``"ms"``, ``"us"``, ``"ns"``, ``"ps"``, ``"fs"`` or ``"as"``, or a multiple such as
        ``"40ms"``. Months and years have no fixed length and are refused.
    origin : date, duration or number
        The time of position 0, of the same kind as `times`. A date may be a string such as
        ``"2024-01-01T12:00"``. If `times` are numbers, it is a number in units of `unit`. If `times` are
        quantities, it is a number in units of `unit`, a duration or a quantity.

    Returns
    -------
    array, shape of `times`
        ``(times - origin) / unit``: int64 if all positions are whole numbers, else float64, correctly
        rounded. The dtype depends on the values, not on the dtype of `times`. Equal times give equal
        positions in both dtypes.

    Raises
    ------
    TypeError
        If `times` are neither dates, durations, numbers nor quantities, or `origin` is of a different kind.
    ValueError
        If a time is missing (NaT, NaN) or infinite, a position overflows int64, the unit is unknown, or
        times are floats of a dtype that is too coarse to distinguish them (see Notes).

    Notes
    -----
    The subtraction uses exact integers of the finest unit, before any division or conversion to
    float. float64 numbers have rounding errors: unix time in float64 is accurate to 2.4e-7 seconds, or to
    256 nanoseconds if its unit is nanoseconds.

    For float32, float16 and bfloat16, the times of a row are compared with the resolution, the distance
    between adjacent numbers of the dtype at the largest time of the row (128 s in float32 at today's unix
    time). If the resolution is coarser than one unit, a row is refused if it has a single time, equal times, or
    different times whose distance is at most the resolution. If the resolution is finer, a row is refused if it
    has both equal times and such close times. No conversion undoes the rounding, so subtract the origin in the
    precision in which the times were recorded. If the times are correct, pass ``times.astype("float64")``.

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
    """A unit and an origin. Calling the object converts times to positions as `timestamps` does.

    Parameters
    ----------
    unit : str
        The unit of positions, as in `timestamps`.
    origin : date, duration or number
        The time of position 0, as in `timestamps`. Dates are stored as ``datetime64`` in UTC, in
        the longest unit in which they are exact, so that equal clocks compare equal.

    Raises
    ------
    TypeError
        If the unit is not a string, or the origin is not a date, duration or number.
    ValueError
        If the unit or the origin is not valid.

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
    origin: OriginLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", read_unit(self.unit)[0])
        object.__setattr__(self, "origin", read_origin(self.origin, self.unit))

    @property
    def _start(self) -> Origin:
        """The origin with the type that `read_origin` returns."""
        return cast("Origin", self.origin)

    def __call__(self, times: TimesLike) -> Positions:
        """Convert times to positions, as `timestamps` does.

        Parameters
        ----------
        times : array, sequence or scalar
            Times of the same kind as the origin.

        Returns
        -------
        array, shape of `times`
            int64 if all positions are whole numbers, else float64.
        """
        if libraries.unit_of(times) is not None:
            return self._of_quantity(times)
        values = read_times(times)
        if not values.size:
            return np.zeros(values.shape, np.int64)
        check_same_kind(values, self._start)
        if isinstance(self._start, np.datetime64 | np.timedelta64):
            return elapsed(values, self._start, read_unit(self.unit)[1])
        numbers = as_positions(times, name="times", coarse=True)
        check_resolution(values)
        return counted(numbers, self._start)

    def _of_quantity(self, times: Any) -> Positions:
        values, tick = read_quantity(times, self.unit, "times")
        if not values.size:
            return np.zeros(values.shape, np.int64)
        unit = read_unit(self.unit)[1]
        if isinstance(self._start, np.datetime64 | np.timedelta64):
            check_same_kind(np.empty(0, "m8[s]"), self._start)
            start = Fraction(attoseconds_of(self._start))
        else:
            start = Fraction(self._start) * unit
        positions = counted_in(values, tick, start, unit)
        check_resolution(values, float(tick / unit))
        return positions
