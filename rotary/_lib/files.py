"""Opens the files of checkpoints, and only regular ones: a FIFO would wait for ever, a device never end."""

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
    """Open a regular file for reading, without waiting.

    Raises
    ------
    OSError
        If it cannot be opened.
    ConfigError
        If it is not a regular file, or `path` cannot be a path.
    """
    try:
        _check_mode(Path(path).stat(), path, name)  # opening a device may have effects of its own
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # the caller's to close
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
            msg = f"`{name}` must be the path of a file, got {shown_name(path)}, a link that leads to itself"
            raise ConfigError(msg) from error
        if error.errno != errno.ENAMETOOLONG:
            raise
        msg = f"`{name}` must be the path of a file, got {shown_name(path)}, too long for a path"
        raise FileNotFoundError(msg) from error
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a path without waiting, because it may have become a FIFO since it was checked."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_mode(status: os.stat_result, path: str, name: str) -> None:
    """Raise unless a file is a regular one."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
        msg = f"`{name}` must be a regular file, got {shown_name(path)}, which is {kind}"
        raise ConfigError(msg)
