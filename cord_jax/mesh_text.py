"""The text of a mesh, `data:2,model:4`, as sizes by axis. Imports no jax, so that a bad one is told at once."""

from cord_jax.errors import UserError
from cord_jax.settings import show

AXES = ("data", "fsdp", "model")


def parse_sizes(text: str) -> dict[str, int]:
    """Sizes by axis in the order of `AXES`, `data` and `model` always among them; one may be -1, "what is left".

    Raises: `UserError` for text that is no mesh.
    """
    given: dict[str, int] = {}
    for pair in text.split(","):
        axis, _, size = (part.strip() for part in pair.partition(":"))
        if axis not in AXES:
            raise UserError(
                f"--mesh={show(text)}: no axis {show(axis)!r}; the axes are {', '.join(AXES)}, as in data:1,model:-1"
            )
        if axis in given:
            raise UserError(f"--mesh={show(text)}: axis {axis} is given twice; give it once")
        if size != "-1" and not (size.isascii() and size.isdigit() and 0 < int(size[:8]) and len(size) < 8):
            raise UserError(
                f"--mesh={show(text)}: the size of {axis} is {show(size)!r}; give a positive number, or -1 once"
            )
        given[axis] = int(size)
    if list(given.values()).count(-1) > 1:
        raise UserError(f"--mesh={show(text)}: more than one size is -1; give the others as numbers")
    return {axis: given.get(axis, 1) for axis in AXES if axis in given or axis != "fsdp"}
