"""The CUDA backend: what a launch of the kernels in `rotate.cu` needs, prepared once, and CuPy, asked at last.

A launch is one struct of numbers. All of it that follows from shapes is laid out when a plan is made; a call
puts in addresses and where rows stand, packs it, and launches on the stream of the arrays' library. Nothing is
waited for, nothing is copied to the host, and nothing is allocated but results, positions that come from the
host, and at first use what stays: frequencies as turns, once for each GPU.

Whatever needs a driver goes through `driver`, the one object that is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.typing import Array, HostArray
from rotary.angles.phases import Frequencies, merged
from rotary.backends.contract import Angles, Axes, Pairing, Rows, View

from . import memory
from . import parameters as cuda_struct
from .memory import (
    CUPY,
    REAL,
    channel_size,
    contiguous,
    owner_of,
    size_of_position,
    view_of,
)

# In radians per position: beyond it float positions need a table.
FASTEST_FOR_FLOATS = 2.0**20
MOST_ROWS = 2**31 - 1
# So many rows from here on stay within int64.
FAR = 2**62

# ------------------------------------------------------------------------------------------------
# What is packed.

_FIELDS = {name: i for i, name in enumerate(cuda_struct.FIELDS, 2 * len(cuda_struct.ARRAY_FIELDS))}
_ARRAY = len(cuda_struct.ARRAY_FIELDS)
_TRIG = slice(_FIELDS["cosine"], _FIELDS["positions"])
_PLACES = slice(_FIELDS["positions"], _FIELDS["factor"])
_FACTOR = slice(_FIELDS["factor"], _FIELDS["sine_sign"])
_KINDS = slice(_FIELDS["position_type"], _FIELDS["tokens"])
_AXES = _FIELDS["axes"]
_VALUE = f"V{cuda_struct.SIZE}"


class Places(NamedTuple):
    """Where rows stand: the fields `positions` .. `limit`, and `position_type` .. `sequences`.

    `floats` says whether positions are floats, and `alike` whether they are the same on every axis. The
    owners live until the launch is given.
    """

    fields: tuple[int, ...]
    kinds: tuple[int, int, int] = (0, 0, 0)
    floats: bool = False
    alike: bool = True
    owners: tuple[Any, ...] = ()

    def moved(self, positions: View) -> Places:
        """Return the same for positions that lie alike elsewhere."""
        fields = (positions.address, *self.fields[1:])
        return Places(fields, self.kinds, self.floats, self.alike, (positions.owner,))


class Trig(NamedTuple):
    """Where angles come from: the fields `cosine` .. `rows`, the factor's, and the number of axes."""

    source: cuda_struct.Trig
    fields: tuple[int, ...]
    factor: tuple[float, float, float]
    axes: int
    aligned: bool
    own: bool  # whether heads have angles of their own
    owner: Any


def counted_from(first: int) -> Places:
    """Return where rows stand that count up from a position."""
    return Places((0, 0, 0, 0, 0, first, 0, 1, cuda_struct.NO_LIMIT))


def places_of(rows: Rows) -> Places:
    """Return where rows stand, uploading what lies on the host."""
    bounds: tuple[int, int, int] = (0, 0, 0)
    owners: tuple[Any, ...] = ()
    if rows.bounds is not None:
        seen = _line_of(_on_device(rows.bounds))
        bounds = (seen.address, cuda_struct.POSITION_TYPES[seen.dtype], seen.shape[0] - 1)
        owners = (seen.owner,)
    # Those that are known on the host were checked.
    known = rows.start is not None or isinstance(rows.positions, np.ndarray)
    limit = cuda_struct.NO_LIMIT if rows.limit is None else rows.limit
    if known and rows.bounds is None:
        limit = cuda_struct.NO_LIMIT
    if rows.start is not None:
        fields = (0, 0, 0, 0, bounds[0], rows.start, 0, 1, limit)
        return Places(fields, (0, *bounds[1:]), owners=owners)
    assert rows.positions is not None
    seen = _on_device(rows.positions)
    steps = [_step(seen, axis) for axis in range(3)]
    return Places(
        (seen.address, *steps, bounds[0], 0, 0, int(rows.counting), limit),
        (cuda_struct.POSITION_TYPES[seen.dtype], *bounds[1:]),
        "float" in seen.dtype,
        steps[0] == 0,
        (*owners, seen.owner),
    )


def _on_device(values: HostArray | View) -> View:
    """Return values of host or GPU as a view."""
    if isinstance(values, View):
        return values
    # Axes that were broadcast are read by strides of zero.
    kept = values[tuple(slice(0, 1) if step == 0 else slice(None) for step in values.strides)]
    return view_of(memory.driver.upload(np.ascontiguousarray(kept), blocking=False), CUPY)


def _line_of(bounds: View) -> View:
    """Return bounds that lie one after another, as kernels read them."""
    if _step(bounds, 0) in (0, size_of_position(bounds.dtype)):
        return bounds
    owner = str(owner_of(bounds.owner))
    return view_of(contiguous(bounds.owner), owner)


def _step(x: View, axis: int) -> int:
    """Return how far apart neighbours on an axis lie, 0 where there is one only."""
    return x.strides[axis] if x.shape[axis] > 1 else 0


def are_too_fast(frequencies: Frequencies) -> bool:
    """Return whether kernels cannot make the angles of float positions, which they cut at 2**-64."""
    return bool(np.abs(frequencies.values).max() > FASTEST_FOR_FLOATS)


def turns_of(angles: Angles, device: int, places: Places) -> Trig:
    """Return the angles that kernels make of positions by themselves."""
    frequencies, factor, _ = angles
    words = _words_on(frequencies, device, alike=places.alike)
    heads, axes, numbers, lanes = words.shape
    high = float(np.float32(factor))
    by_head = numbers * axes * lanes * 8 if heads > 1 else 0
    return Trig(
        "floats" if places.floats else "integers",
        (0, 0, words.data.ptr, 0, by_head, 0),
        (factor, high, float(np.float32(factor - high))),
        axes,
        True,
        heads > 1,
        words,
    )


def _words_on(frequencies: Frequencies, device: int, *, alike: bool) -> Any:
    """Return frequencies as turns on a GPU, on one axis where positions are alike on all and they can be.

    They live as long as the frequencies: a graph that was captured reads them whenever it is replayed.
    """
    words = frequencies.copies.get((device, alike))
    if words is None:
        own = (merged(frequencies) or frequencies) if alike else frequencies
        # Every stream may read them from now on, so this once the copy is waited for.
        words = memory.driver.upload(cuda_struct.turn_words(own), blocking=True)
        frequencies.copies[device, alike] = words
    return words


def uploaded_table(values: HostArray) -> Trig:
    """Return the angles of a table (2, heads or 1, rows, lanes) of the host, for the current stream."""
    seen = view_of(memory.driver.upload(np.ascontiguousarray(values), blocking=False), CUPY)
    cosine, sine = (
        seen._replace(
            address=seen.address + part * seen.strides[0],
            shape=seen.shape[1:],
            strides=seen.strides[1:],
        )
        for part in (0, 1)
    )
    return _of_table(cosine, sine)


def tables_of(cosine: Array, sine: Array) -> tuple[Trig, Places]:
    """Return tables (heads or 1, batch or 1, sequence or 1, lanes) on a GPU, and their row of every row."""
    parts = [cosine, sine]
    seen = [view_of(part, str(owner_of(part))) for part in parts]
    if not _are_rows(*seen):
        parts = [contiguous(part) for part in parts]
        seen = [view_of(part, str(owner_of(part))) for part in parts]
    heads, batch, length, lanes = seen[0].shape
    by_batch, by_token = (_step(seen[0], axis) for axis in (1, 2))
    row = by_token or by_batch or lanes * channel_size(seen[0])
    steps = by_batch // row, by_token // row
    rows = 1 + steps[0] * (batch - 1) + steps[1] * (length - 1)
    flat = [
        view._replace(shape=(heads, rows, lanes), strides=(view.strides[0], row, view.strides[3]))
        for view in seen
    ]
    return _of_table(*flat), Places((0, 0, 0, 0, 0, 0, *steps, cuda_struct.NO_LIMIT))


def _are_rows(cosine: View, sine: View) -> bool:
    """Return whether tables lie alike, in rows of which one step leads through a batch."""
    by_batch, by_token = _step(cosine, 1), _step(cosine, 2)
    return (
        cosine.strides == sine.strides
        and (cosine.shape[-1] == 1 or cosine.strides[-1] == channel_size(cosine))
        and min(by_batch, by_token) >= 0
        and (by_token == 0 or by_batch % by_token == 0)
    )


def _of_table(cosine: View, sine: View) -> Trig:
    """Return the angles of tables (heads or 1, rows, lanes) that lie alike."""
    heads, rows, _ = cosine.shape
    by_head, by_row = cosine.strides[0] if heads > 1 else 0, cosine.strides[1]
    numbers = (cosine.address, sine.address, by_row, by_head)
    aligned = not any(number % cuda_struct.VECTOR_BYTES for number in numbers)
    fields = (cosine.address, sine.address, 0, by_row, by_head, rows)
    owners = (cosine.owner, sine.owner)
    return Trig("table", fields, (1.0, 1.0, 0.0), 1, aligned, heads > 1, owners)


# ------------------------------------------------------------------------------------------------
# Launches.


class Block(NamedTuple):
    """What a launch turns of one of a call's arrays, the distances in bytes.

    `x_start` and `y_start` count from the first elements; the steps are of batch, token and head.
    """

    array: int
    x_start: int
    y_start: int
    x_steps: tuple[int, int, int]
    y_steps: tuple[int, int, int]
    heads: int
    copy: bool


def blocks_of(
    array: int, x: View, y: View, axes: Axes, pairing: Pairing, *, copy: bool
) -> list[Block]:
    """Return an array and its result as blocks (batch, sequence, heads), walking heads that no stride reaches.

    There is none where there is nothing to turn. `copy` says whether other channels are wanted too.
    """
    if not x.size:
        return []
    channels = (1 if x.dtype in REAL else 2) * pairing.lanes
    copy = copy and channels < x.shape[-1]
    groups = _head_axes(x, y, axes)
    heads = max(groups, key=lambda group: group[0], default=(1, 0, 0))
    front = (axes.batch, axes.sequence)
    (x_batch, x_token), (y_batch, y_token) = (
        [0 if axis is None else _step(view, axis) for axis in front] for view in (x, y)
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


def _head_axes(x: View, y: View, axes: Axes) -> list[tuple[int, int, int]]:
    """Return the axes of heads as (size, step in x, step in y), neighbours that lie as one joined."""
    groups: list[tuple[int, int, int]] = []
    for axis in axes.others(x.ndim):
        size, steps = x.shape[axis], (x.strides[axis], y.strides[axis])
        if size == 1:
            continue
        if groups and (groups[-1][1], groups[-1][2]) == (size * steps[0], size * steps[1]):
            groups[-1] = (groups[-1][0] * size, *steps)
        else:
            groups.append((size, *steps))
    return groups


def launches_of(
    blocks: Sequence[Block], like: View, pairing: Pairing, batch: int | None, length: int
) -> list[Launch]:
    """Return the launches for blocks of arrays of one dtype that turn alike, two in each."""
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
    """A launch for one or two arrays of a dtype, of which all is known but addresses and rows.

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
        start, lanes, source, target, inverse = pairing
        if dtype in REAL:
            dtype, start, width = REAL[dtype], 2 * start, 2 * width
            source = target = "interleaved"
        self._dtype, self._layouts, self._device = dtype, (source, target), device
        self._blocks = [(i * _ARRAY, b.array, b.x_start, b.y_start) for i, b in enumerate(blocks)]
        self._heads = max(block.heads for block in blocks)
        self._lanes, self._tokens = lanes, batch * length
        self._by_head = abs(blocks[0].x_steps[2]) <= abs(blocks[0].x_steps[1])
        self._kernels: dict[tuple[cuda_struct.Trig, bool, bool], Any] = {}
        self._template = self._constants(blocks, width, length, start, inverse=inverse)
        self._vectors = self._allows_vectors(blocks, width, start)

    def _constants(
        self, blocks: Sequence[Block], width: int, length: int, start: int, *, inverse: bool
    ) -> list[Any]:
        """Return all fields, those that a call decides zero."""
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
            "lanes": self._lanes,
            "source": source,
            "target": target,
        }.items():
            values[_FIELDS[name]] = value
        return values

    def _allows_vectors(self, blocks: Sequence[Block], width: int, start: int) -> bool:
        """Return whether everything but the addresses lies so that 16 bytes may be read at once."""
        vector = cuda_struct.WIDTHS[self._dtype]
        size = cuda_struct.VECTOR_BYTES // vector
        bytes_apart = [start * size]
        for block in blocks:
            bytes_apart += [*block.x_steps, *block.y_steps]
            bytes_apart += [width * size] if block.copy else []
        return self._lanes % vector == 0 and not any(
            step % cuda_struct.VECTOR_BYTES for step in bytes_apart
        )

    def __call__(self, xs: Sequence[int], ys: Sequence[int], trig: Trig, places: Places) -> None:
        """Launch, given the addresses of all arrays and results of the call."""
        values = self._template.copy()
        union = 0
        for field, array, x_start, y_start in self._blocks:
            x, y = xs[array] + x_start, ys[array] + y_start
            values[field], values[field + 1] = x, y
            union |= x | y
        values[_TRIG], values[_FACTOR], values[_AXES] = trig.fields, trig.factor, trig.axes
        values[_PLACES], values[_KINDS] = places.fields, places.kinds
        vector = self._vectors and trig.aligned and not union % cuda_struct.VECTOR_BYTES
        kernel, grid, block = self._kernels.get((trig.source, trig.own, vector)) or self._kernel(
            trig, vector=vector
        )
        packed = np.frombuffer(cuda_struct.PACK.pack(*values), _VALUE)
        kernel(grid, block, (packed,))

    def _kernel(self, trig: Trig, *, vector: bool) -> Any:
        """Return kernel, grid and block."""
        source, target = self._layouts
        kernel = _kernel_on(
            self._device,
            cuda_struct.instance(self._dtype, trig.source, source, target, vector=vector),
        )
        chunks = self._lanes // cuda_struct.WIDTHS[self._dtype] if vector else self._lanes
        grid, block = cuda_struct.launch_shape(
            self._tokens,
            self._heads,
            chunks,
            by_head=self._by_head,
            own=trig.own,
            multiprocessors=memory.driver.multiprocessors(self._device),
        )
        found = self._kernels[trig.source, trig.own, vector] = (kernel, grid, block)
        return found


_kernels: dict[tuple[int, str], Any] = {}


def _kernel_on(device: int, name: str) -> Any:
    """Return an instance of the kernel for the current GPU."""
    kernel = _kernels.get((device, name))
    if kernel is None:
        kernel = _kernels[device, name] = memory.driver.kernel(name)
    return kernel


def instances_used() -> set[str]:
    """Return the names of the instances that this process has asked for."""
    return {name for _, name in _kernels}
