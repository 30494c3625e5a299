"""`repetition`: a step that says again what an earlier one has said."""

from collections.abc import Sequence


def repeats_an_earlier_step(step: str, earlier: Sequence[str]) -> bool:
    """Whether the step equals an earlier one but for white space around them."""
    said = step.strip()
    return any(said == other.strip() for other in earlier)
