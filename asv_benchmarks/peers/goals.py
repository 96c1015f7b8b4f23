"""The goals of the library, compared with the measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .table import NEW, OUT, Result, markdown, select
from .with_onnxruntime import RUN
from .with_rotary import COPY, IN_PLACE, MISALIGNED, SCALE

# A peer is near to what memory allows if it reaches this share of the speed of scaling in place.
NEAR = 0.8


def worst(values: Iterable[float]) -> float:
    """The smallest measured number."""
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def at_least(numbers: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Ratios with their bounds. Of several cases, the worst is used."""

    def long(*dtypes: str) -> list[Result]:
        found = [result for dtype in dtypes for result in select(numbers, "prefill", dtype=dtype)]
        if "float64" in dtypes:
            found += select(numbers, "memory", dtype="float64")
        return found

    def ratios(results: list[Result], other: str, ours: str) -> float:
        return worst(result.ratio(other, ours) for result in results)

    everything = long("float32", "float16", "bfloat16")
    place = [result for result in select(numbers, "memory", dtype="float32") if result.has(OUT)]
    one, many = (
        [result for result in select(numbers, "decode") if result.title.endswith(f"batch {batch}")]
        for batch in (1, 32)
    )
    tables = {result.case["dtype"]: result for result in select(numbers, "tables")}
    return [
        ("`out=`, float32 and float64, against a copy", 0.95, ratios(long("float32", "float64"), COPY, OUT)),
        ("`out=`, float16 and bfloat16, against a copy", 0.85, ratios(long("float16", "bfloat16"), COPY, OUT)),
        ("misaligned `out=`, against a copy", 0.75, ratios(everything, COPY, MISALIGNED)),
        ("in place, float32 and float64, against scaling", 0.95, ratios(long("float32", "float64"), SCALE, IN_PLACE)),
        ("in place, float16, against scaling", 0.85, ratios(long("float16"), SCALE, IN_PLACE)),
        ("in place, bfloat16, against scaling", 0.80, ratios(long("bfloat16"), SCALE, IN_PLACE)),
        ("`out=`, other axis orders and strides, against contiguous", 0.9, strided(place, OUT)),
        ("in place, other axis orders and strides, against contiguous", 0.9, strided(place, IN_PLACE)),
        ("plain call of query and key, against ONNX Runtime's `run`", 1.2, ratios(select(numbers, "pair"), RUN, NEW)),
        ("long sequences, against peers below 0.8 of scaling", 1.2, ahead(everything, near=False)),
        ("the same, against peers that reach 0.8 of scaling", 1.0, ahead(everything, near=True)),
        ("one token, batch 1, plain call, against the fastest peer", 3.0, fastest(one, NEW)),
        ("the same, `out=`", 5.0, fastest(one, OUT)),
        ("the same, in place", 5.0, fastest(one, IN_PLACE)),
        ("one token, batch 32, plain call, against the fastest peer", 1.2, fastest(many, NEW)),
        ("table in float32, against NumPy's in float32", 1.0, tables["float32"].ratio("NumPy", NEW)),
        ("table in float64, against NumPy's in float64", 6.0, tables["float64"].ratio("NumPy", NEW)),
    ]  # fmt: skip


def strided(results: list[Result], way: str) -> float:
    """The first case, which is contiguous, compared with the slowest of the others."""
    return worst(results[0][way] / other[way] for other in results[1:])


def fastest(results: list[Result], way: str) -> float:
    """The worst case compared with its fastest peer."""
    return worst(result.beside_fastest(way) for result in results)


def ahead(results: list[Result], *, near: bool) -> float:
    """The worst case compared with peers that come near to the speed of scaling in place, or with the others.

    Each is compared with the call that writes to the same place.
    """
    return worst(
        value
        for result in results
        for name, value in result.ahead().items()
        if (result.ratio(name, SCALE) <= 1 / NEAR) == near
    )


def at_most(numbers: dict[str, Any]) -> list[tuple[str, float, float]]:
    """The first call of a new process."""
    times = numbers["first_call"]
    return [
        ("first call, nothing on disk, seconds", 2.0, times["cold"]),
        ("first call, kernels on disk, against a trivial cached Numba function", 1.1, times["warm"] / times["trivial"]),
    ]  # fmt: skip


def write(numbers: dict[str, Any]) -> str:
    """The table."""
    rows = [
        [what, f"at least {bound:g}", *verdict(value, reached=value >= bound)]
        for what, bound, value in at_least(numbers)
    ] + [
        [what, f"at most {bound:g}", *verdict(value, reached=value <= bound)]
        for what, bound, value in at_most(numbers)
    ]
    return markdown(["what", "goal", "measured", "reached"], rows)


def verdict(value: float, *, reached: bool) -> tuple[str, str]:
    """The ratio, and whether it reaches its bound."""
    if math.isnan(value):
        return "–", "not measured"
    return f"{value:.2f}", "yes" if reached else "no"
