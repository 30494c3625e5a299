"""Writes one self-contained HTML page of runs: tables, charts, every search tree, samples side by side.

  python -m launch.report --runs=runs/traces,runs/student,runs/student_eval --output=page.html

It reads runs of launch.synthesize, launch.train_student and launch.evaluate, finished or not, and changes nothing
in them. The same runs give the same page.
"""

from absl import flags

from launch import common

FLAGS = flags.FlagValues()
common.define_required(
    "runs", "output directories of runs, comma-separated; one that is no run stands for those below it", FLAGS
)
common.define_required("output", "HTML file to write; replaced if it exists", FLAGS)


def main(values: flags.FlagValues) -> None:
    """Writes the page and prints its path."""
    from cord_jax.report.page import write_report

    print(write_report([run for run in values.runs.split(",") if run], values.output))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
