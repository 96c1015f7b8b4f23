"""What lies where on GPUs: memory that kernels can read, and positions in it as they see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rotary._lib.libraries import FLOATS
from rotary._lib.typing import Array
from rotary.backends.contract import View
from rotary.backends.cuda import launch as cuda
from rotary.backends.cuda import memory as views
from rotary.backends.cuda import parameters as cuda_struct


def check_devices(seen: Sequence[View], names: Sequence[str]) -> None:
    """Raise unless all memory is of the GPU of the first."""
    for view, name in zip(seen, names, strict=True):
        if view.device != seen[0].device:
            msg = (
                f"`{name}` must lie on GPU {seen[0].device}, as `{names[0]}`, got GPU {view.device}"
            )
            raise ValueError(msg)


def check_aligned(seen: Sequence[View], names: Sequence[str]) -> None:
    """Raise where numbers do not begin on multiples of their size, as no GPU can read them."""
    for view, name in zip(seen, names, strict=True):
        check_multiples(view, views.channel_size(view), name)


def check_multiples(view: View, size: int, name: str) -> None:
    """Raise unless the numbers of an array begin on multiples of a size."""
    if view.address % size:
        got = f"one that begins {view.address % size} bytes beyond"
    elif any(step % size for step in view.strides):
        got = f"strides {view.strides}"
    else:
        return
    msg = f"`{name}` must be aligned to the {size} bytes of {view.dtype}, got {got}"
    raise ValueError(msg)


def seen_on(owner: str, device: int, value: Any, name: str) -> View | None:
    """Return positions that lie on the GPU of a call as a view, None for those of the host.

    Parameters
    ----------
    owner : str
        Of the call's arrays, whose stream is to wait for what other libraries have not finished yet.
    device : int
    value, name
        The argument.
    """
    if isinstance(value, int | float | np.ndarray | list | tuple):
        return None
    own = views.owner_of(value)
    if own is None or views.asks_for_gradient([value]):
        return None
    stream = views.stream_of(owner, device)
    if own == views.OTHER:
        # Its library has the stream wait for what it has not finished yet.
        with cuda.driver.stream(stream, device):
            return _readable(cuda.adopted(value, name), views.CUPY, device, name)
    view = _readable(value, own, device, name)
    if own != owner:
        cuda.driver.order(views.stream_of(own, device), stream, device)
    return view


def _readable(value: Array, owner: str, device: int, name: str) -> View:
    """Return positions that lie on a GPU as a view of a dtype that kernels read; those of another are cast."""
    view = views.view_of(value, owner)
    if view.device != device:
        msg = f"`{name}` must lie on GPU {device}, as the arrays, got GPU {view.device}"
        raise ValueError(msg)
    if view.dtype in cuda_struct.POSITION_TYPES:
        check_multiples(view, cuda.size_of_position(view.dtype), name)
        return view
    if view.dtype == "uint64":
        msg = f"`{name}` must hold integers that int64 has, or floats, got dtype uint64"
        raise TypeError(msg)
    if "int" not in view.dtype and view.dtype not in FLOATS:
        msg = f"`{name}` must hold integers or floats, got dtype {view.dtype}"
        raise TypeError(msg)
    kind = "float32" if view.dtype in FLOATS else "int64"
    return views.view_of(cuda.cast(value, kind), owner)
