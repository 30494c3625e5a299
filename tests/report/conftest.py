"""Made-up runs of all kinds, and their page."""

import pytest

from cord_jax.report.page import write_report
from tests.report.synthetic import write_evaluation, write_synthesis, write_training


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A directory of runs: two beam searches of the same problems, a tree search, two evaluations, a student."""
    directory = tmp_path_factory.mktemp("runs")
    write_synthesis(directory / "beam", 12, accuracy=0.9)
    write_synthesis(directory / "other", 12, accuracy=0.4, seed=1, decoys=False)
    write_synthesis(directory / "mcts", 5, decoding="mcts", seed=2)
    write_evaluation(directory / "before", 4, 4, accuracy=0.2, seed=3)
    write_evaluation(directory / "after", 4, 4, accuracy=0.8, seed=4)
    write_training(directory / "student", 40)
    return directory


@pytest.fixture(scope="session")
def page(runs, tmp_path_factory):
    """The page of all of them."""
    return write_report([runs], tmp_path_factory.mktemp("page") / "page.html")
