"""Whatever a file or a command line holds, it is accepted or refused in one line; see CONTRIBUTING.md.

A few hundred cases a target here, always the same; the slow run tries a hundred thousand:

    make test ARGS='tests/fuzz -m slow'
"""

import os
from random import Random

import pytest

from tests.fuzz.property import refused_in_one_line
from tests.fuzz.targets import TARGETS

FEW, MANY = {"tokenizer": 60}, {"real_texts": 10_000}
# Cases that have found something.
FOUND = {
    "tokenizer": [6674, 10132],
    "pool": [290, 516, 21214],
    "weights": [41, 46313],
    "run": [261, 545, 2371, 6451, 8267, 10827, 16054, 58836],
    "rows": [158],
    "config": [66470],
    "flags": [32, 84, 690, 2907, 5289],
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The directory of a target, with valid files; a case writes over what it damages."""
    made = {}

    def world(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            TARGETS[name].world(made[name])
        return made[name]

    return world


def fuzz(name, directory, cases):
    target = TARGETS[name]
    for number in cases:
        case = target.case(directory, Random(f"{name} {number}"))
        try:
            with refused_in_one_line():
                target.read(directory, case)
        except Exception as error:
            raise AssertionError(f"case {number} of {name}: {case!r}"[:2000]) from error


@pytest.mark.parametrize(
    "name", sorted(TARGETS.keys() - {"real_texts"})
)  # tests/text reads real vocabularies
def test_a_few_cases(name, worlds):
    fuzz(name, worlds(name), [*range(FEW.get(name, 200)), *FOUND.get(name, [])])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_cases(name, worlds):
    first = int(os.environ.get("FUZZ_FIRST", 0))
    fuzz(name, worlds(name), range(first, first + MANY.get(name, 100_000)))
