"""Holds every kernel of this machine against the readable reference, for whoever is the first on a new GPU.

A rotation is exact here: angles in Python's integers, products in fractions. What a kernel gives is measured in its
bound, which counts roundings of a pair's length: 3 where it is turned in float32, 6 in float64 with an attention
factor, and one more to 16 bits.
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
from rotary.backends.cuda import parameters as cuda_struct
from rotary.embedding import RotaryEmbedding
from rotary.layouts import LAYOUTS, Layout, pair_channels
from rotary.scaling import Custom

from .devices import INSTALL, Device, dtype_named

# Half the distance of neighbours near one: of what is computed with, and of what is stored in 16 bits.
COMPUTED = {"float16": 2.0**-24, "bfloat16": 2.0**-24, "float32": 2.0**-24, "float64": 2.0**-53}
STORED = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
# Below these sizes numbers are subnormal, and may count as zero.
SMALLEST = {"float16": 2.0**-25}
TINY = 2.0**-126
ROUNDINGS_OF_DOUBLES = 6.0
FACTOR = 1.27

BATCH, LENGTH, HEADS = 2, 3, (3, 2)
AXES = Axes(1, 0)
# Pairs, first channel and width of a head: whole vectors of 16 bytes in every dtype, or numbers none divides.
WHOLE, ODD = (16, 8, 48), (5, 3, 17)
# No period of anything fits them. The third is beyond what float32 can tell from its neighbours.
POSITIONS = np.array([[0, 1, 1_700_000_001], [-5, 131_071, 2**62 + 12_345]])
MOMENTS = np.array([[0.0, 0.5, 1_700_000_001.25], [-5.75, 131_071.1, 2.0**52 + 0.5]])
# Kernels make the angles of float positions by themselves up to 2**20 radians per position, and read them beyond.
FAST = 2.0**21

Exact: TypeAlias = Any  # an array of fractions


class Case(NamedTuple):
    """A rotation of query and key, and the instance of the kernel that is to do it on a GPU."""

    dtype: str
    angles: cuda_struct.Trig
    source: Layout
    target: Layout
    vector: bool

    @property
    def instance(self) -> str:
        """The instance's name."""
        return cuda_struct.instance(
            self.dtype, self.angles, self.source, self.target, vector=self.vector
        )

    @property
    def pairing(self) -> Pairing:
        """Which channels turn."""
        lanes, start, _ = WHOLE if self.vector else ODD
        return Pairing(start, lanes, self.source, self.target)

    @property
    def positions(self) -> HostArray:
        """Where rows stand, (batch, sequence)."""
        return POSITIONS if self.angles == "integers" else MOMENTS

    @property
    def embedding(self) -> RotaryEmbedding:
        """The embedding under test, with frequencies of either sign."""
        lanes, start, width = WHOLE if self.vector else ODD
        frequencies = (-0.7) ** np.arange(lanes)
        if self.angles == "table":
            frequencies[-1] = FAST
        return RotaryEmbedding(
            width,
            layout=self.source,
            output_layout=self.target,
            rotary_dim=2 * lanes,
            rotary_start=start,
            scaling=Custom(frequencies, attention_factor=FACTOR),
            seq_axis=1,
        )

    def arrays(self) -> list[HostArray]:
        """Query and key (batch, sequence, heads, channels), the same at every call."""
        *_, width = WHOLE if self.vector else ODD
        numbers = np.random.default_rng(0)
        return [
            numbers.standard_normal((BATCH, LENGTH, heads, width)).astype(dtype_named(self.dtype))
            for heads in HEADS
        ]


def cases(dtype: str, angles: cuda_struct.Trig) -> list[Case]:
    """Return all rotations of a dtype with angles of one origin."""
    return [
        Case(dtype, angles, source, target, vector)
        for source in LAYOUTS
        for target in LAYOUTS
        for vector in (True, False)
    ]


# ------------------------------------------------------------------------------------------------
# What has to come out.


def exactly(x: HostArray) -> Exact:
    """Return numbers as fractions."""
    found: Exact = np.vectorize(Fraction, otypes=[object])(x.astype(np.float64))
    return found


@lru_cache(maxsize=10_000)
def _cos_sin(frequency: float, position: float) -> tuple[Fraction, Fraction]:
    """Return cosine and sine times the factor."""
    phase = reference.phase_of(np.array([frequency]), np.array([position]))
    cosine, sine = reference.cos_sin_of(phase)
    return cosine * Fraction(FACTOR), sine * Fraction(FACTOR)


def expected(case: Case, x: HostArray, *, backwards: bool) -> Exact:
    """Return what an array has to become, in fractions; backwards by the transposed rotation."""
    rows = case.positions.ravel().tolist()
    table = [
        [_cos_sin(w, p) for w in case.embedding.inv_freq[: case.pairing.lanes].tolist()]
        for p in rows
    ]
    values = np.array(table, object).transpose(2, 0, 1)[:, None]
    index = np.arange(len(rows)).reshape(BATCH, LENGTH)
    pairing = case.pairing
    if backwards:
        pairing = Pairing(pairing.start, pairing.lanes, case.target, case.source, inverse=True)
    return reference.rotate(exactly(x), Table(values, index, 0, LENGTH), AXES, pairing)


def error(case: Case, y: HostArray, exact: Exact, layout: Layout, roundings: float) -> float:
    """Return how far a result is from the exact one, in its bound: above one it is wrong."""
    start, lanes, *_ = case.pairing
    inside = slice(start, start + 2 * lanes)
    outside = np.delete(np.arange(y.shape[-1]), inside)
    if not np.isfinite(y.astype(np.float64)).all():
        return np.inf
    if (exactly(y[..., outside]) != exact[..., outside]).any():
        return np.inf  # what passes through does so bit for bit
    sizes = np.abs(exact[..., inside]).astype(np.float64)
    apart = np.abs(exactly(y[..., inside]) - exact[..., inside]).astype(np.float64)
    if case.dtype == "float64":
        roundings = max(roundings, ROUNDINGS_OF_DOUBLES)
    return float((apart / bound(case.dtype, sizes, layout, roundings)).max())


def bound(dtype: str, sizes: HostArray, layout: Layout, roundings: float) -> HostArray:
    """Return how far channels that turn may be off, given the sizes of what is exact.

    That is so many roundings of their pair's length, and one of their own to 16 bits.
    """
    first, second = (list(part) for part in pair_channels(sizes.shape[-1], layout))
    lengths = np.empty_like(sizes)
    lengths[..., first] = lengths[..., second] = np.hypot(sizes[..., first], sizes[..., second])
    computed = roundings * COMPUTED[dtype] * lengths + SMALLEST.get(dtype, 0.0) + TINY
    return computed + STORED.get(dtype, 0.0) * (sizes + computed)


# ------------------------------------------------------------------------------------------------
# What comes out.


def check(case: Case, device: Device) -> float:
    """Return the largest error of a case, forwards and backwards; inf where it is wrong at once."""
    rope, inputs = case.embedding, case.arrays()
    worst = 0.0
    for backwards in (False, True):
        verb = rope.vjp if backwards else rope.__call__
        layout = case.source if backwards else case.target
        xs = [device.put(x) for x in inputs]
        results = [device.get(y) for y in verb(*xs, positions=case.positions)]
        for x, y, before in zip(xs, results, inputs, strict=True):
            if device.get(x).tobytes() != before.tobytes():
                return np.inf  # an input was written to
            exact = expected(case, before, backwards=backwards)
            worst = max(worst, error(case, y, exact, layout, device.roundings))
        if case.source == case.target:
            verb(*xs, positions=case.positions, out=tuple(xs))
            if any(
                device.get(x).tobytes() != y.tobytes() for x, y in zip(xs, results, strict=True)
            ):
                return np.inf  # in place it is something else
    return worst


def same_rows(device: Device) -> Iterable[tuple[str, bool]]:
    """Yield for every other way to say where rows stand whether the bits are those of host positions."""
    case = Case("float32", "integers", "half", "half", vector=True)
    rope = case.embedding
    x = device.put(case.arrays()[0])
    small = np.array([[7, 0, 3], [40_000, 1, 2]])

    def rotated(**where: Any) -> bytes:
        result: bytes = device.get(rope(x, **where)).tobytes()
        return result

    wanted = rotated(positions=small)
    for kind in ("int32", "int64", "float32", "float64"):
        yield f"positions in {kind}", rotated(positions=device.put(small.astype(kind))) == wanted
    starts = np.array([5, -70])
    counted = rotated(positions=starts[:, None] + np.arange(LENGTH))
    yield "offsets of the batch", rotated(offset=device.put(starts)) == counted
    packed = device.put(case.arrays()[0].reshape(BATCH * LENGTH, HEADS[0], -1))
    bounds = np.array([0, 2, 2, BATCH * LENGTH])
    places = np.concatenate([np.arange(n) for n in np.diff(bounds)])
    ragged = device.get(rope(packed, cu_seqlens=device.put(bounds), seq_axis=0))
    explicit = device.get(rope(packed, positions=places, seq_axis=0))
    yield "packed sequences", ragged.tobytes() == explicit.tobytes()


# ------------------------------------------------------------------------------------------------
# What is told.


class Report:
    """Lines, and whether all of them were good."""

    def __init__(self) -> None:
        self.failures = 0
        self.instances = 0

    def line(self, text: str) -> None:
        """Write a line."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def result(self, what: str, said: str, *, good: bool) -> None:
        """Write what came of a check."""
        self.failures += not good
        self.line(f"  {what:<34}{said}{'' if good else '   WRONG'}")


def run(devices: Iterable[Device], report: Report) -> None:
    """Check everything on every device."""
    for device in devices:
        for line in device.described():
            report.line(line)
        for dtype in cuda_struct.TYPES:
            lack = device.lacks(dtype)
            if lack is not None:
                report.line(f"  {dtype:<34}not checked: {lack}")
                continue
            for angles in cuda_struct.TRIGS:
                _check_group(dtype, angles, device, report)
        if device.is_gpu:
            _checked("rows told by arrays on the GPU", partial(_rows, device), report)


def _check_group(dtype: str, angles: cuda_struct.Trig, device: Device, report: Report) -> None:
    """Check all rotations of a dtype with angles of one origin, in one line."""

    def said() -> tuple[str, bool]:
        group = cases(dtype, angles)
        worst = max(check(case, device) for case in group)
        text = f"error {worst:.2f} of its bound"
        if not device.is_gpu:
            return text, worst <= 1
        names = {case.instance for case in group}
        ran = names & cuda.instances_used()
        report.instances += len(ran)
        return f"{len(ran)} of {len(names)} instances, {text}", worst <= 1 and ran == names

    _checked(f"{dtype}, {angles}", said, report)


def _rows(device: Device) -> tuple[str, bool]:
    """Check all ways to say where rows stand."""
    found = list(same_rows(device))
    different = [name for name, same in found if not same]
    return ", ".join(different) or f"{len(found)} kinds, same bits", not different


def _checked(what: str, said: Callable[[], tuple[str, bool]], report: Report) -> None:
    """Write what came of a check, be it an error."""
    try:
        text, good = said()
    except Exception as failure:  # noqa: BLE001  (the other checks are still of interest)
        text, good = f"{type(failure).__name__}: {failure}", False
    report.result(what, text, good=good)


def main(devices: list[Device], missing: str | None) -> int:
    """Check devices and tell the outcome; `missing` is why there is no GPU among them.

    Returns
    -------
    int
        The exit status: 0 if something was checked and all of it is right, else 1.
    """
    report = Report()
    run(devices, report)
    if missing is not None:
        report.line(f"GPU: not checked. {missing}: {INSTALL}.")
    if not devices:
        report.line("FAILED: there is no GPU, so nothing was checked")
        return 1
    on_gpu = any(device.is_gpu for device in devices)
    told = f"{report.instances} of {len(cuda_struct.INSTANCES)} instances of the CUDA kernel"
    if report.failures:
        report.line(f"FAILED: {report.failures} checks, marked WRONG above")
        return 1
    report.line(f"passed: {told + ' ran, and ' if on_gpu else ''}all that was checked is right")
    return 0
