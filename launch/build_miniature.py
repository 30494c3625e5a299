"""Trains the miniature's members from nothing, as the checkpoints in cord_jax/miniature/assets were, and checks them.

  python -m launch.build_miniature --output_dir=runs/miniature           # trains; the assets lie in its assets/
  python -m launch.build_miniature --output_dir=runs/check --check       # measures what the shipped assets can do

Run again on the same output directory it continues.
"""

from pathlib import Path

from absl import flags

from launch import common

FLAGS = flags.FlagValues()
common.define_required("output_dir", "directory of the training runs and the assets, or of the check", FLAGS)
flags.DEFINE_list(
    "members",
    [],
    "names of the members to train: student, sums, prover, products, shares; empty for all",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "check",
    False,
    "train nothing; print the conditions of a comparison and what holds of them",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "assets", None, "with --check: the assets to measure; default: the shipped ones", flag_values=FLAGS
)


def main(values: flags.FlagValues) -> None:
    """Builds the members asked for, or checks the assets."""
    from cord_jax.errors import UserError
    from cord_jax.miniature import ASSETS
    from cord_jax.miniature.recipe import MEMBERS, build

    output_dir = Path(values.output_dir)
    if values.check:
        from cord_jax.miniature.conditions import check

        for condition in check(Path(values.assets or ASSETS), output_dir):
            print(condition, flush=True)
        return
    known = [member.name for member in MEMBERS]
    for name in values.members:
        if name not in known:
            raise UserError(f"--members={name}: no such member; there are {', '.join(known)}")
    print(f"assets: {build(output_dir, tuple(values.members))}")


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
