"""Filters of a user's own, which tests name as `tests.search.own_filters:name`."""

from collections.abc import Sequence


def has_odd_length(step: str, earlier: Sequence[str]) -> bool:
    """Whether the step has an odd number of characters."""
    return len(step) % 2 == 1


def begins_like_an_earlier_step(step: str, earlier: Sequence[str]) -> bool:
    """Whether the step has the first two characters of an earlier one."""
    return any(step[:2] == other[:2] for other in earlier)
