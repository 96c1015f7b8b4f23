"""The one exception of the library's own, for configurations as distinct from single arguments."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """A configuration that is unclear, incomplete or contradictory.

    Raised for configurations of checkpoints, as `rotary.from_config` reads them: a key that is unknown,
    missing or malformed, two keys that say different things, or values which, each well formed, do not
    say which rotation is meant. The message names the key, what was found and what to write. It is a
    `ValueError`, so code that guards against bad values catches it too.
    """
