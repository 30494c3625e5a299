"""The error of this package."""


class CheckpointError(ValueError):
    """A checkpoint directory or its config.json cannot be used.

    The message is one line that names what is wrong (a tensor, a field), where it is (a file), what was
    expected and what was found.
    """
