"""Opens files of checkpoints. Other files than regular ones are refused: a FIFO may block, a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import ConfigError, shown_name

__all__ = ["open_file"]

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: str, name: str) -> BinaryIO:
    """Open a regular file for reading, without blocking.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ConfigError
        If `path` is not the path of a regular file.
    """
    try:
        _check_mode(
            Path(path).stat(), path, name
        )  # before opening, because opening a device may have side effects
        file = open(path, "rb", opener=_open_nonblocking)  # noqa: SIM115  # the caller closes it
        try:
            _check_mode(os.fstat(file.fileno()), path, name)
        except BaseException:
            file.close()
            raise
    except ConfigError:
        raise
    except ValueError as error:  # a null byte
        msg = f"`{name}` must be the path of a file, got {shown_name(path)}: {error}"
        raise ConfigError(msg) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            msg = f"`{name}` must be the path of a file, got {shown_name(path)}, a link to itself"
            raise ConfigError(msg) from error
        if error.errno != errno.ENAMETOOLONG:
            raise
        msg = f"`{name}` must be the path of a file, got {shown_name(path)}, which is too long for a path"
        raise FileNotFoundError(msg) from error
    return file


def _open_nonblocking(path: str, flags: int) -> int:
    """Do not block if the path has become a FIFO since it was checked."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_mode(status: os.stat_result, path: str, name: str) -> None:
    """Raise unless a file is a regular one."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file")
        msg = f"`{name}` must be a regular file, got {shown_name(path)}, which is {kind}"
        raise ConfigError(msg)
