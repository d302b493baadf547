"""The package's own exceptions; each is also a built-in one, so callers need not know them."""


class ShapeError(ValueError):
    """Array sizes or layer sizes that do not fit together."""


class IsaError(ValueError):
    """An instruction-set level that is unknown or not available on this machine."""


class DataError(ValueError):
    """A data file or saved network that is missing, damaged or not of the expected kind."""


class ChipError(ValueError):
    """A chip table with unknown, missing or impossible entries; the message holds the key's path."""
