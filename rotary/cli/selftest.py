"""Compares every kernel of this machine with the reference, so that users can check a new GPU.

The expected rotation is exact: angles are Python integers, and products are fractions. The error of a kernel is
measured in units of its bound. The bound is 3 unit roundoffs of the length of a channel pair in float32, 6 in float64
with an attention factor, and one more rounding for 16-bit results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.typing import HostArray
from rotary.backends import reference
from rotary.backends.contract import Axes, Pairing, Table
from rotary.backends.cuda import launch as cuda
from rotary.backends.cuda import parameters
from rotary.embedding import RotaryEmbedding
from rotary.layouts import LAYOUTS, Layout, pair_channels
from rotary.scaling import Custom

from .devices import INSTALL, Device, dtype_named

# The unit roundoffs of the arithmetic for each dtype, and of the rounding to 16 bits.
COMPUTE_ROUNDOFF = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-24,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}
STORE_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
# Errors that subnormal numbers may have: half of the smallest float16, and the smallest normal float32.
SUBNORMAL_ERROR = {"float16": 2.0**-25}
TINY = 2.0**-126
ROUNDINGS_OF_DOUBLES = 6.0
FACTOR = 1.27

BATCH, LENGTH, HEADS = 2, 3, (3, 2)
AXES = Axes(1, 0)
# The number of channel pairs, the first channel and the width of a head. Only with the first can kernels use vectors of
# 16 bytes for every dtype.
WITH_VECTORS, WITHOUT_VECTORS = (16, 8, 48), (5, 3, 17)
# Irregular positions. In float32, the third position equals its adjacent integers.
POSITIONS = np.array([[0, 1, 1_700_000_001], [-5, 131_071, 2**62 + 12_345]])
FLOAT_POSITIONS = np.array([[0.0, 0.5, 1_700_000_001.25], [-5.75, 131_071.1, 2.0**52 + 0.5]])
# Kernels compute the angles of float positions for frequencies up to 2**20 radians per position. For a higher frequency
# such as this one, they read a table.
FAST = 2.0**21

Exact: TypeAlias = Any  # an array of fractions


class Case(NamedTuple):
    """A rotation of query and key, and the instance of the kernel that computes it on a GPU."""

    dtype: str
    angles: parameters.AngleKind
    source: Layout
    target: Layout
    vector: bool

    @property
    def instance(self) -> str:
        """The name of the instance."""
        return parameters.instance(
            self.dtype, self.angles, self.source, self.target, vector=self.vector
        )

    @property
    def pairing(self) -> Pairing:
        """The rotated channel pairs."""
        pairs, start, _ = WITH_VECTORS if self.vector else WITHOUT_VECTORS
        return Pairing(start, pairs, self.source, self.target)

    @property
    def positions(self) -> HostArray:
        """The positions of the tokens, (batch, sequence)."""
        return POSITIONS if self.angles == "integers" else FLOAT_POSITIONS

    @property
    def embedding(self) -> RotaryEmbedding:
        """The embedding under test, with frequencies of either sign."""
        pairs, start, width = WITH_VECTORS if self.vector else WITHOUT_VECTORS
        frequencies = (-0.7) ** np.arange(pairs)
        if self.angles == "table":
            frequencies[-1] = FAST
        return RotaryEmbedding(
            width,
            layout=self.source,
            output_layout=self.target,
            rotary_dim=2 * pairs,
            rotary_start=start,
            scaling=Custom(frequencies, attention_factor=FACTOR),
            seq_axis=1,
        )

    def arrays(self) -> list[HostArray]:
        """Return query and key (batch, sequence, heads, channels), the same in every call."""
        *_, width = WITH_VECTORS if self.vector else WITHOUT_VECTORS
        numbers = np.random.default_rng(0)
        return [
            numbers.standard_normal((BATCH, LENGTH, heads, width)).astype(dtype_named(self.dtype))
            for heads in HEADS
        ]


def cases(dtype: str, angles: parameters.AngleKind) -> list[Case]:
    """Return all rotations of a dtype with one source of angles."""
    return [
        Case(dtype, angles, source, target, vector)
        for source in LAYOUTS
        for target in LAYOUTS
        for vector in (True, False)
    ]


# ------------------------------------------------------------------------------------------------
# Exact results.


def exactly(x: HostArray) -> Exact:
    """Convert an array to fractions."""
    fractions: Exact = np.vectorize(Fraction, otypes=[object])(x.astype(np.float64))
    return fractions


@lru_cache(maxsize=10_000)
def _cos_sin(frequency: float, position: float) -> tuple[Fraction, Fraction]:
    """Return cosine and sine, multiplied by the attention factor."""
    phase = reference.phase_of(np.array([frequency]), np.array([position]))
    cosine, sine = reference.cos_sin_of(phase)
    return cosine * Fraction(FACTOR), sine * Fraction(FACTOR)


def expected(case: Case, x: HostArray, *, transposed: bool) -> Exact:
    """Return the array rotated by the exact rotation, or by the transposed one, in fractions."""
    positions = case.positions.ravel().tolist()
    table = [
        [_cos_sin(w, p) for w in case.embedding.inv_freq[: case.pairing.pairs].tolist()]
        for p in positions
    ]
    values = np.array(table, object).transpose(2, 0, 1)[:, None]
    index = np.arange(len(positions)).reshape(BATCH, LENGTH)
    pairing = case.pairing
    if transposed:
        pairing = Pairing(pairing.start, pairing.pairs, case.target, case.source, inverse=True)
    return reference.rotate(exactly(x), Table(values, index, 0, LENGTH), AXES, pairing)


def error(case: Case, y: HostArray, exact: Exact, layout: Layout, roundings: float) -> float:
    """Return the largest error of a result in units of its bound; above 1, the result is wrong."""
    start, pairs, *_ = case.pairing
    inside = slice(start, start + 2 * pairs)
    outside = np.delete(np.arange(y.shape[-1]), inside)
    if not np.isfinite(y.astype(np.float64)).all():
        return np.inf
    if (exactly(y[..., outside]) != exact[..., outside]).any():
        return np.inf  # channels that are not rotated must keep their bits
    sizes = np.abs(exact[..., inside]).astype(np.float64)
    difference = np.abs(exactly(y[..., inside]) - exact[..., inside]).astype(np.float64)
    if case.dtype == "float64":
        roundings = max(roundings, ROUNDINGS_OF_DOUBLES)
    return float((difference / bound(case.dtype, sizes, layout, roundings)).max())


def bound(dtype: str, sizes: HostArray, layout: Layout, roundings: float) -> HostArray:
    """Return the bound on the error of rotated channels, given the absolute values of the exact channels.

    The bound is `roundings` unit roundoffs of the length of the channel pair, and one more rounding for 16 bits.
    """
    first, second = (list(part) for part in pair_channels(sizes.shape[-1], layout))
    lengths = np.empty_like(sizes)
    lengths[..., first] = lengths[..., second] = np.hypot(sizes[..., first], sizes[..., second])
    computed = (
        roundings * COMPUTE_ROUNDOFF[dtype] * lengths + SUBNORMAL_ERROR.get(dtype, 0.0) + TINY
    )
    return computed + STORE_ROUNDOFF.get(dtype, 0.0) * (sizes + computed)


# ------------------------------------------------------------------------------------------------
# Results of the kernels.


def check(case: Case, device: Device) -> float:
    """Return the largest error of a case, by the rotation and its transpose, in units of the bound."""
    rope, inputs = case.embedding, case.arrays()
    worst = 0.0
    for transposed in (False, True):
        method = rope.vjp if transposed else rope.__call__
        layout = case.source if transposed else case.target
        xs = [device.put(x) for x in inputs]
        results = [device.get(y) for y in method(*xs, positions=case.positions)]
        for x, y, before in zip(xs, results, inputs, strict=True):
            if device.get(x).tobytes() != before.tobytes():
                return np.inf  # an input was written to
            exact = expected(case, before, transposed=transposed)
            worst = max(worst, error(case, y, exact, layout, device.roundings))
        if case.source == case.target:
            method(*xs, positions=case.positions, out=tuple(xs))
            if any(
                device.get(x).tobytes() != y.tobytes() for x, y in zip(xs, results, strict=True)
            ):
                return np.inf  # the bits differ in place
    return worst


def same_rows(device: Device) -> Iterable[tuple[str, bool]]:
    """Yield each kind of position argument, and whether it gives the same bits as positions on the host."""
    case = Case("float32", "integers", "half", "half", vector=True)
    rope = case.embedding
    x = device.put(case.arrays()[0])
    small = np.array([[7, 0, 3], [40_000, 1, 2]])

    def rotate(**position: Any) -> bytes:
        result: bytes = device.get(rope(x, **position)).tobytes()
        return result

    expected_bits = rotate(positions=small)
    for kind in ("int32", "int64", "float32", "float64"):
        yield (
            f"positions in {kind}",
            rotate(positions=device.put(small.astype(kind))) == expected_bits,
        )
    starts = np.array([5, -70])
    consecutive = rotate(positions=starts[:, None] + np.arange(LENGTH))
    yield "offsets of the batch", rotate(offset=device.put(starts)) == consecutive
    packed = device.put(case.arrays()[0].reshape(BATCH * LENGTH, HEADS[0], -1))
    bounds = np.array([0, 2, 2, BATCH * LENGTH])
    positions = np.concatenate([np.arange(n) for n in np.diff(bounds)])
    ragged = device.get(rope(packed, cu_seqlens=device.put(bounds), seq_axis=0))
    explicit = device.get(rope(packed, positions=positions, seq_axis=0))
    yield "packed sequences", ragged.tobytes() == explicit.tobytes()


# ------------------------------------------------------------------------------------------------
# The report.


class Report:
    """Prints the results and counts the failures."""

    def __init__(self) -> None:
        self.failures = 0
        self.instances = 0

    def line(self, text: str) -> None:
        """Print a line."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def result(self, check_name: str, text: str, *, good: bool) -> None:
        """Print the result of a check, and count it if it is a failure."""
        self.failures += not good
        self.line(f"  {check_name:<34}{text}{'' if good else '   WRONG'}")


def run(devices: Iterable[Device], report: Report) -> None:
    """Check all kernels of all devices."""
    for device in devices:
        for line in device.described():
            report.line(line)
        for dtype in parameters.TYPES:
            reason = device.lacks(dtype)
            if reason is not None:
                report.line(f"  {dtype:<34}not checked: {reason}")
                continue
            for angles in parameters.ANGLE_KINDS:
                _check_group(dtype, angles, device, report)
        if device.is_gpu:
            _report_check("positions on the GPU", partial(_position_kinds, device), report)


def _check_group(dtype: str, angles: parameters.AngleKind, device: Device, report: Report) -> None:
    """Check all rotations of a dtype with one source of angles, and print one line."""

    def check_all() -> tuple[str, bool]:
        group = cases(dtype, angles)
        worst = max(check(case, device) for case in group)
        text = f"error {worst:.2f} of its bound"
        if not device.is_gpu:
            return text, worst <= 1
        names = {case.instance for case in group}
        ran = names & cuda.instances_used()
        report.instances += len(ran)
        return f"{len(ran)} of {len(names)} instances, {text}", worst <= 1 and ran == names

    _report_check(f"{dtype}, {angles}", check_all, report)


def _position_kinds(device: Device) -> tuple[str, bool]:
    kinds = list(same_rows(device))
    different = [name for name, same in kinds if not same]
    return ", ".join(different) or f"{len(kinds)} kinds, same bits", not different


def _report_check(
    check_name: str, run_check: Callable[[], tuple[str, bool]], report: Report
) -> None:
    """Run a check and print its result, or its exception."""
    try:
        text, good = run_check()
    except Exception as failure:  # noqa: BLE001  (the other checks still run)
        text, good = f"{type(failure).__name__}: {failure}", False
    report.result(check_name, text, good=good)


def main(devices: list[Device], missing: str | None) -> int:
    """Check devices and print the outcome; `missing` is the reason why there is no GPU among them.

    Returns
    -------
    int
        The exit status: 0 if at least one check ran and all results are correct, else 1.
    """
    report = Report()
    run(devices, report)
    if missing is not None:
        report.line(f"GPU: not checked. {missing}: {INSTALL}.")
    if not devices:
        report.line("FAILED: there is no GPU, so nothing was checked")
        return 1
    on_gpu = any(device.is_gpu for device in devices)
    instances = f"{report.instances} of {len(parameters.INSTANCES)} instances of the CUDA kernel"
    if report.failures:
        report.line(f"FAILED: {report.failures} checks, marked WRONG above")
        return 1
    report.line(
        f"passed: {instances + ' ran, and ' if on_gpu else ''}all checked results are correct"
    )
    return 0
