"""Launches of the kernels in `rotate.cu`: the struct of numbers that each one takes, prepared once.

A plan lays out all of the struct that follows from shapes. A call fills in addresses and positions, packs the struct
and launches on the stream of the arrays' library. A call never synchronizes and copies nothing to the host. It
allocates only results and positions that come from the host. At first use each GPU gets a copy of the frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.memo import remembered
from rotary._lib.typing import Array, HostArray
from rotary.angles.phases import Frequencies, merged
from rotary.backends.contract import Angles, Axes, GpuView, Pairing, RowPositions

from . import memory
from . import parameters as cuda_struct
from .memory import (
    CHANNEL_BYTES,
    CUPY,
    REAL,
    contiguous,
    owner_of,
    size_of_position,
    view_of,
)

# In radians per position. Above it, float positions need a table.
FASTEST_FOR_FLOATS = 2.0**20
MAX_ROWS = 2**31 - 1
# Layouts of tables, of which the rows that tokens read are remembered.
TABLES_REMEMBERED = 1024
# Sequences that start below it stay within int64.
FAR = 2**62

# ------------------------------------------------------------------------------------------------
# Positions and angles, as fields of the struct.

_FIELDS = {name: i for i, name in enumerate(cuda_struct.FIELDS, 2 * len(cuda_struct.ARRAY_FIELDS))}
_ARRAY = len(cuda_struct.ARRAY_FIELDS)
_TRIG = slice(_FIELDS["cosine"], _FIELDS["positions"])
_PLACES = slice(_FIELDS["positions"], _FIELDS["factor"])
_FACTOR = slice(_FIELDS["factor"], _FIELDS["sine_sign"])
_KINDS = slice(_FIELDS["position_type"], _FIELDS["tokens"])
_AXES = _FIELDS["axes"]
_VALUE = f"V{cuda_struct.SIZE}"


class KernelPositions(NamedTuple):
    """The positions of tokens: the fields `positions` .. `limit`, and `position_type` .. `sequences`.

    `floats` says whether positions are floats, and `alike` whether they are equal on every axis. `owners` keep the
    memory alive until the launch.
    """

    fields: tuple[int, ...]
    kinds: tuple[int, int, int] = (0, 0, 0)
    floats: bool = False
    alike: bool = True
    owners: tuple[Any, ...] = ()

    def of(self, address: int, owner: Any) -> KernelPositions:
        """Return the fields for another array of the same layout."""
        fields = (address, *self.fields[1:])
        return KernelPositions(fields, self.kinds, self.floats, self.alike, (owner,))


class AngleSource(NamedTuple):
    """Where kernels get angles from: the fields `cosine` .. `rows`, the factor's, and the number of axes."""

    kind: cuda_struct.AngleKind
    fields: tuple[int, ...]
    factor: tuple[float, float, float]
    axes: int
    aligned: bool
    own: bool  # whether angles differ by head
    owner: Any


def consecutive_from(first: int) -> KernelPositions:
    """Return consecutive positions, given the first."""
    return KernelPositions((0, 0, 0, 0, 0, first, 0, 1, cuda_struct.NO_LIMIT))


def row_positions(rows: RowPositions) -> KernelPositions:
    """Return the positions of rows. Those on the host are uploaded."""
    bounds: tuple[int, int, int] = (0, 0, 0)
    owners: tuple[Any, ...] = ()
    if rows.bounds is not None:
        views = _contiguous_bounds(_on_device(rows.bounds))
        bounds = (views.address, cuda_struct.POSITION_TYPES[views.dtype], views.shape[0] - 1)
        owners = (views.owner,)
    # Positions on the host were checked when they were read.
    known = rows.start is not None or isinstance(rows.positions, np.ndarray)
    limit = cuda_struct.NO_LIMIT if rows.limit is None else rows.limit
    if known and rows.bounds is None:
        limit = cuda_struct.NO_LIMIT
    if rows.start is not None:
        fields = (0, 0, 0, 0, bounds[0], rows.start, 0, 1, limit)
        return KernelPositions(fields, (0, *bounds[1:]), owners=owners)
    assert rows.positions is not None
    views = _on_device(rows.positions)
    steps = [step if size > 1 else 0 for size, step in zip(views.shape, views.strides, strict=True)]
    return KernelPositions(
        (views.address, *steps[:3], bounds[0], 0, 0, int(rows.consecutive), limit),
        (cuda_struct.POSITION_TYPES[views.dtype], *bounds[1:]),
        "float" in views.dtype,
        steps[0] == 0,
        (*owners, views.owner),
    )


def _on_device(values: HostArray | GpuView) -> GpuView:
    """Return values as a view, uploading those of the host."""
    if isinstance(values, GpuView):
        return values
    # Kernels read broadcast axes with a stride of zero, so one entry is enough.
    kept = values[tuple(slice(0, 1) if step == 0 else slice(None) for step in values.strides)]
    return view_of(memory.driver.upload(np.ascontiguousarray(kept), blocking=False), CUPY)


def _contiguous_bounds(bounds: GpuView) -> GpuView:
    """Return contiguous bounds, because kernels search them without a stride."""
    if bounds.shape[0] == 1 or bounds.strides[0] in (0, size_of_position(bounds.dtype)):
        return bounds
    owner = str(owner_of(bounds.owner))
    return view_of(contiguous(bounds.owner), owner)


def are_too_fast(frequencies: Frequencies) -> bool:
    """Return whether float positions need a table, because kernels cut their angles at 2**-64."""
    return bool(np.abs(frequencies.values).max() > FASTEST_FOR_FLOATS)


def computed_angles(angles: Angles, device: int, positions: KernelPositions) -> AngleSource:
    """Return the source of angles that kernels compute from frequencies and positions."""
    frequencies, factor, _ = angles
    words = _frequency_words_on(frequencies, device, alike=positions.alike)
    heads, axes, numbers, pairs = words.shape
    high = float(np.float32(factor))
    by_head = numbers * axes * pairs * 8 if heads > 1 else 0
    return AngleSource(
        "floats" if positions.floats else "integers",
        (0, 0, words.data.ptr, 0, by_head, 0),
        (factor, high, float(np.float32(factor - high))),
        axes,
        True,
        heads > 1,
        words,
    )


def _frequency_words_on(frequencies: Frequencies, device: int, *, alike: bool) -> Any:
    """Return frequencies on a GPU, as turns per position.

    They are merged on one axis if positions are equal on all axes and the sum is exact. They live as long as the
    frequencies, because a captured CUDA graph reads them at each replay.
    """
    words = frequencies.copies.get((device, alike))
    if words is None:
        own = (merged(frequencies) or frequencies) if alike else frequencies
        # Every stream may read them from now on, so the copy must be complete.
        words = memory.driver.upload(cuda_struct.frequency_words(own), blocking=True)
        frequencies.copies[device, alike] = words
    return words


def uploaded_table(values: HostArray) -> AngleSource:
    """Upload a table (2, heads or 1, rows, pairs) on the current stream."""
    views = view_of(memory.driver.upload(np.ascontiguousarray(values), blocking=False), CUPY)
    cosine, sine = (
        views._replace(
            address=views.address + part * views.strides[0],
            shape=views.shape[1:],
            strides=views.strides[1:],
        )
        for part in (0, 1)
    )
    return _from_table(cosine, sine)


def tables_of(cosine: Array, sine: Array, owner: str) -> tuple[AngleSource, KernelPositions]:
    """Return tables (heads or 1, batch or 1, sequence or 1, pairs) on a GPU, and the row that each token reads."""
    first, second = view_of(cosine, owner), view_of(sine, owner)
    rows = _rows_of(first.shape, first.strides, second.strides, first.dtype)
    if rows is None:
        first, second = (view_of(contiguous(part), owner) for part in (cosine, sine))
        rows = _rows_of(first.shape, first.strides, second.strides, first.dtype)
    assert rows is not None
    size = CHANNEL_BYTES[first.dtype]
    if (first.address | second.address) % size:
        for view, name in ((first, "cos"), (second, "sin")):
            memory.check_alignment(view, size, name)
    shape, strides, positions = rows
    flat = (view._replace(shape=shape, strides=strides) for view in (first, second))
    return _from_table(*flat), positions


@remembered(TABLES_REMEMBERED)
def _rows_of(
    shape: tuple[int, ...], strides: tuple[int, ...], others: tuple[int, ...], dtype: str
) -> tuple[tuple[int, ...], tuple[int, ...], KernelPositions] | None:
    """Return shape and strides of tables (heads, rows, pairs), and the row that each token reads.

    None unless cosine and sine have equal strides, and batch and sequence can be walked as rows.
    """
    heads, batch, length, pairs = shape
    size = CHANNEL_BYTES[dtype]
    by_batch = strides[1] if batch > 1 else 0
    by_token = strides[2] if length > 1 else 0
    if (
        strides != others
        or (pairs > 1 and strides[3] != size)
        or min(by_batch, by_token) < 0
        or (by_token and by_batch % by_token)
    ):
        return None
    row = by_token or by_batch or pairs * size
    steps = by_batch // row, by_token // row
    count = 1 + steps[0] * (batch - 1) + steps[1] * (length - 1)
    positions = KernelPositions((0, 0, 0, 0, 0, 0, *steps, cuda_struct.NO_LIMIT))
    return (heads, count, pairs), (strides[0], row, strides[3]), positions


def _from_table(cosine: GpuView, sine: GpuView) -> AngleSource:
    """Return the source of angles for tables (heads or 1, rows, pairs) of equal strides."""
    heads, rows, _ = cosine.shape
    by_head, by_row = cosine.strides[0] if heads > 1 else 0, cosine.strides[1]
    numbers = (cosine.address, sine.address, by_row, by_head)
    aligned = not any(number % cuda_struct.VECTOR_BYTES for number in numbers)
    fields = (cosine.address, sine.address, 0, by_row, by_head, rows)
    owners = (cosine.owner, sine.owner)
    return AngleSource("table", fields, (1.0, 1.0, 0.0), 1, aligned, heads > 1, owners)


# ------------------------------------------------------------------------------------------------
# Launches.


class Block(NamedTuple):
    """The part of one array that a launch rotates: batch, tokens and heads, with distances in bytes.

    `x_start` and `y_start` count from the first elements. The steps are the strides of batch, token and head.
    """

    array: int
    x_start: int
    y_start: int
    x_steps: tuple[int, int, int]
    y_steps: tuple[int, int, int]
    heads: int
    copy: bool


def blocks_of(
    array: int, x: GpuView, y: GpuView, axes: Axes, pairing: Pairing, *, copy: bool
) -> list[Block]:
    """Split an array and its result into blocks (batch, sequence, heads).

    There are several blocks if one stride does not reach all heads, and none if the array is empty. `copy` says
    whether to copy the channels that are not rotated.
    """
    if 0 in x.shape:
        return []
    channels = (1 if x.dtype in REAL else 2) * pairing.pairs
    copy = copy and channels < x.shape[-1]
    groups = _head_axes(x, y, axes)
    heads = max(groups, key=lambda group: group[0], default=(1, 0, 0))
    front = (axes.batch, axes.sequence)
    (x_batch, x_token), (y_batch, y_token) = (
        [0 if axis is None or view.shape[axis] == 1 else view.strides[axis] for axis in front]
        for view in (x, y)
    )
    walked = [group for group in groups if group is not heads]
    return [
        Block(
            array,
            sum(i * group[1] for i, group in zip(index, walked, strict=True)),
            sum(i * group[2] for i, group in zip(index, walked, strict=True)),
            (x_batch, x_token, heads[1]),
            (y_batch, y_token, heads[2]),
            heads[0],
            copy,
        )
        for index in np.ndindex(*(group[0] for group in walked))
    ]


def _head_axes(x: GpuView, y: GpuView, axes: Axes) -> list[tuple[int, int, int]]:
    """Return the axes of heads as (size, stride in x, stride in y), merged if one stride reaches both."""
    groups: list[tuple[int, int, int]] = []
    for axis in axes.head_axes(len(x.shape)):
        size, steps = x.shape[axis], (x.strides[axis], y.strides[axis])
        if size == 1:
            continue
        if groups and (groups[-1][1], groups[-1][2]) == (size * steps[0], size * steps[1]):
            groups[-1] = (groups[-1][0] * size, *steps)
        else:
            groups.append((size, *steps))
    return groups


def launches_of(
    blocks: Sequence[Block], like: GpuView, pairing: Pairing, batch: int | None, length: int
) -> list[Launch]:
    """Return the launches for blocks of one dtype and equal channels, up to two blocks in each."""
    return [
        Launch(
            blocks[i : i + cuda_struct.ARRAYS],
            like.dtype,
            pairing,
            like.shape[-1],
            1 if batch is None else batch,
            length,
            like.device,
        )
        for i in range(0, len(blocks), cuda_struct.ARRAYS)
    ]


class Launch:
    """A launch for one or two arrays of a dtype, complete except for addresses, positions and angles.

    Parameters
    ----------
    blocks : sequence of Block
        One or two.
    dtype : str
        Of the arrays.
    pairing : Pairing
        In channels of the arrays, complex ones counted once.
    width : int
        Channels of the arrays, complex ones counted once.
    batch, length : int
    device : int
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        dtype: str,
        pairing: Pairing,
        width: int,
        batch: int,
        length: int,
        device: int,
    ) -> None:
        start, pairs, source, target, inverse = pairing
        if dtype in REAL:
            dtype, start, width = REAL[dtype], 2 * start, 2 * width
            source = target = "interleaved"
        self._dtype, self._layouts, self._device = dtype, (source, target), device
        self._blocks = [(i * _ARRAY, b.array, b.x_start, b.y_start) for i, b in enumerate(blocks)]
        self._heads = max(block.heads for block in blocks)
        self._pairs, self._tokens = pairs, batch * length
        self._by_head = abs(blocks[0].x_steps[2]) <= abs(blocks[0].x_steps[1])
        self._kernels: dict[tuple[cuda_struct.AngleKind, bool, bool], Any] = {}
        self._template = self._constants(blocks, width, length, start, inverse=inverse)
        self._vectors = self._allows_vectors(blocks, width, start)

    def _constants(
        self, blocks: Sequence[Block], width: int, length: int, start: int, *, inverse: bool
    ) -> list[Any]:
        """Return all fields, with zeros for those that a call fills in."""
        values: list[Any] = []
        for block in blocks:
            values += [0, 0, *block.x_steps, *block.y_steps, block.heads, int(block.copy)]
        values += [0] * (2 * _ARRAY - len(values)) + [0] * len(_FIELDS)
        source, target = (int(layout == "interleaved") for layout in self._layouts)
        for name, value in {
            "sine_sign": -1.0 if inverse else 1.0,
            "tokens": self._tokens,
            "length": length,
            "width": width,
            "start": start,
            "pairs": self._pairs,
            "source": source,
            "target": target,
        }.items():
            values[_FIELDS[name]] = value
        return values

    def _allows_vectors(self, blocks: Sequence[Block], width: int, start: int) -> bool:
        """Return whether all strides and channels allow reads of 16 bytes; addresses are checked at each call."""
        vector = cuda_struct.WIDTHS[self._dtype]
        size = cuda_struct.VECTOR_BYTES // vector
        distances = [start * size]
        for block in blocks:
            distances += [*block.x_steps, *block.y_steps]
            distances += [width * size] if block.copy else []
        return self._pairs % vector == 0 and not any(
            step % cuda_struct.VECTOR_BYTES for step in distances
        )

    def __call__(
        self,
        xs: Sequence[int],
        ys: Sequence[int],
        angle_source: AngleSource,
        positions: KernelPositions,
    ) -> None:
        """Launch, given the addresses of all arrays and results of the call."""
        values = self._template.copy()
        union = 0
        for field, array, x_start, y_start in self._blocks:
            x, y = xs[array] + x_start, ys[array] + y_start
            values[field], values[field + 1] = x, y
            union |= x | y
        values[_TRIG], values[_FACTOR], values[_AXES] = (
            angle_source.fields,
            angle_source.factor,
            angle_source.axes,
        )
        values[_PLACES], values[_KINDS] = positions.fields, positions.kinds
        vector = self._vectors and angle_source.aligned and not union % cuda_struct.VECTOR_BYTES
        kernel, grid, block = self._kernels.get(
            (angle_source.kind, angle_source.own, vector)
        ) or self._kernel(angle_source, vector=vector)
        packed = np.frombuffer(cuda_struct.PACK.pack(*values), _VALUE)
        kernel(grid, block, (packed,))

    def _kernel(self, angle_source: AngleSource, *, vector: bool) -> Any:
        """Return kernel, grid and block, and remember them."""
        source, target = self._layouts
        kernel = _kernel_on(
            self._device,
            cuda_struct.instance(self._dtype, angle_source.kind, source, target, vector=vector),
        )
        chunks = self._pairs // cuda_struct.WIDTHS[self._dtype] if vector else self._pairs
        grid, block = cuda_struct.launch_shape(
            self._tokens,
            self._heads,
            chunks,
            by_head=self._by_head,
            own=angle_source.own,
            multiprocessors=memory.driver.multiprocessors(self._device),
        )
        found = self._kernels[angle_source.kind, angle_source.own, vector] = (kernel, grid, block)
        return found


# Compiled kernels. Their number is bounded by the instances that there are, and they stay when caches are cleared.
_kernels: dict[tuple[int, str], Any] = {}


def _kernel_on(device: int, name: str) -> Any:
    """Return an instance of the kernel for the current GPU, compiled at first use."""
    kernel = _kernels.get((device, name))
    if kernel is None:
        kernel = _kernels[device, name] = memory.driver.kernel(name)
    return kernel


def instances_used() -> set[str]:
    """Return the names of the instances that this process has used."""
    return {name for _, name in _kernels}
