"""The error of this package."""

import os
import re
from pathlib import Path


class CheckpointError(ValueError):
    """A checkpoint directory or its config.json cannot be used.

    The message is one line that names what is wrong (a tensor, a field), where it is (a file), what was
    expected and what was found.
    """


def hub_hint(path: str | Path) -> str:
    """What to do where a path that is not there is the id of a model on the Hugging Face Hub; empty if it is none."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) or os.path.exists(path):
        return ""
    return f"; if that is a model on the Hub, download it first: hf download {path} --local-dir=DIR"
