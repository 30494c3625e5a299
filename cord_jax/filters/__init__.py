"""Filters drop candidates after duplicates and before they are scored (docs/method.md, section 3.16).

A filter is a pure function of a step and of the steps before it; a run names its filters in the order in which they
apply. One more is a file here and a line in `FILTERS`, or a function of one's own named as `package.module:function`.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence

from cord_jax.errors import UserError
from cord_jax.filters.arithmetic import states_a_false_equation
from cord_jax.filters.repetition import repeats_an_earlier_step
from cord_jax.settings import show

# (step, earlier steps of its trace, first first) -> whether the step is dropped. The texts are canonical (NFC), but
# without the headings with which a search forces steps to begin.
Filter = Callable[[str, Sequence[str]], bool]

FILTERS: dict[str, Filter] = {
    "arithmetic": states_a_false_equation,
    "repetition": repeats_an_earlier_step,
}


def parse_filters(names: str) -> dict[str, Filter]:
    """The filters of a comma-separated list, by name, in its order; "" is none.

    Raises: `UserError` for a name that is unknown, cannot be imported or stands there twice.
    """
    filters: dict[str, Filter] = {}
    for name in [part.strip() for part in names.split(",")] if names.strip() else []:
        if name in filters:
            raise UserError(f'--filters={show(names)}: "{show(name)}" is there twice; name each filter once')
        if name in FILTERS:
            filters[name] = FILTERS[name]
        elif ":" in name:
            filters[name] = _import(names, name)
        else:
            raise UserError(
                f'--filters={show(names)}: "{show(name)}" is no filter; there are {", ".join(FILTERS)}, and functions of your '
                "own as package.module:function"
            )
    return filters


def drop_reasons(
    filters: Mapping[str, Filter], candidates: Sequence[tuple[str, Sequence[str]]]
) -> list[str | None]:
    """For each candidate the name of the filter that drops it, None if it stays.

    A filter that would drop all that the filters before it have left drops none.

    Args:
      candidates: the valid candidates of one beam (of a problem, for whole traces), each a step and the steps before
        it, as `Filter` takes them.
    """
    reasons: list[str | None] = [None] * len(candidates)
    for name, drops in filters.items():
        left = [i for i, reason in enumerate(reasons) if reason is None]
        caught = [i for i in left if drops(*candidates[i])]
        if len(caught) < len(left):
            for i in caught:
                reasons[i] = name
    return reasons


def _import(names: str, name: str) -> Filter:
    """The function that `package.module:function` names."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module may raise anything when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f'--filters={show(names)}: "{show(name)}" cannot be imported ({reason}); check the name'
        ) from None
    if not callable(found):
        raise UserError(
            f'--filters={show(names)}: "{show(name)}" is no function; name one that takes a step and earlier steps'
        )
    return found
