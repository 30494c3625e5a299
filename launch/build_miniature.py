"""Trains the miniature's teachers and student from nothing, as the checkpoints in cord_jax/miniature/assets were.

  python -m launch.build_miniature --output_dir=runs/miniature

Run again on the same output directory it continues. The assets then lie in its `assets/`.
"""

from pathlib import Path

from absl import flags

from launch import common

FLAGS = flags.FlagValues()
common.define_required("output_dir", "directory of the training runs and the assets", FLAGS)
flags.DEFINE_list(
    "members",
    [],
    "names of the members to train: sums, products, shares, student; empty for all",
    flag_values=FLAGS,
)


def main(values: flags.FlagValues) -> None:
    """Builds the members asked for and says where they are."""
    from cord_jax.errors import UserError
    from cord_jax.miniature.recipe import MEMBERS, build

    known = [member.name for member in MEMBERS]
    for name in values.members:
        if name not in known:
            raise UserError(f"--members={name}: no such member; there are {', '.join(known)}")
    print(f"assets: {build(Path(values.output_dir), tuple(values.members))}")


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
