"""The settings of the quickstart."""

from pathlib import Path

from cord_jax import settings
from cord_jax.settings import configuration, setting


@configuration
class QuickstartConfig:
    """How much of the miniature to run: the flags of `launch.quickstart`."""

    output_dir: Path | str = setting(help="directory of everything that is written", changes_result=False)
    train_problems: int = setting(
        default=60, help="puzzles that traces are written for, 300 at most", at_least=1, at_most=300
    )
    held_out_problems: int = setting(
        default=300, help="puzzles that students are measured on, 300 at most", at_least=1, at_most=300
    )
    samples: int = setting(default=4, help="answers of a student to each puzzle", at_least=1)
    seed: int = setting(default=0, help="random seed; the first of several", at_least=0)
    report: bool = setting(
        default=True,
        help="draw report.html, a page of the first seed's runs with every search and every answer",
        changes_result=False,
    )
    seeds: int = setting(default=1, help="how often all is repeated, each time with another seed", at_least=1)

    def __post_init__(self):
        """Raises: `UserError` for a value out of range."""
        settings.check(self)
