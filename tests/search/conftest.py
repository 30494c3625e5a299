"""The reference's small pools, made once for all tests of the search."""

import pytest

from tests.reference.tiny import PREFIX_HABITS, PROBLEMS, Habits, write_pool
from tests.search.inputs import write_inputs


@pytest.fixture(scope="session")
def pools(tmp_path_factory):
    made = {}

    def pool(segmentation, seed):
        if (segmentation, seed) not in made:
            directory = tmp_path_factory.mktemp(f"pool-{segmentation}-{seed}")
            habits = Habits() if segmentation == "prompt" else PREFIX_HABITS
            pool = write_pool(directory, seed, habits=habits)
            write_inputs(directory, pool, PROBLEMS)
            made[segmentation, seed] = directory, pool
        return made[segmentation, seed]

    return pool
