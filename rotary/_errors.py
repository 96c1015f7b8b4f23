"""The one exception of the library's own, for configurations as distinct from single arguments."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """A configuration that is unclear, incomplete or contradictory.

    It is for configurations whose every value is well formed, and which still do not say which
    rotation is meant. Nothing here reads configurations of models yet, so nothing raises it. It is a
    `ValueError`, so code that guards against bad values catches it too.
    """
