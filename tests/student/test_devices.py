"""One device and eight simulated ones take the same steps; a run goes on on another number of devices."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from cord_jax.student import StudentConfig, train
from tests.student.students import read_metrics, write_student

MESHES = ("fsdp:8", pytest.param("fsdp:4,model:2", marks=pytest.mark.slow), "data:2,fsdp:2,model:2")


@pytest.fixture(scope="module")
def wide_student(tmp_path_factory):
    """Of sizes that eight devices divide."""
    return write_student(tmp_path_factory.mktemp("wide"), "qwen2", hidden=64)


def run(student, rows, output_dir, mesh, **changes):
    # A large epsilon keeps Adam's step a smooth function of the gradient: without it, a gradient that is zero
    # but for rounding moves its weight by a whole learning rate in a direction that the order of a sum
    # decides.
    settings = dict(
        max_length=128,
        max_steps=20,
        batch_size=8,
        learning_rate=1e-3,
        epsilon=1e-4,
        checkpoint_every=0,
        plot=False,
        mesh=mesh,
    )
    train(StudentConfig(student, rows, output_dir, **{**settings, **changes}))
    return load_file(output_dir / "hf" / "model.safetensors"), [
        row["loss"] for row in read_metrics(output_dir)
    ]


@pytest.fixture(scope="module")
def one_device(wide_student, rows, tmp_path_factory):
    return run(wide_student, rows, tmp_path_factory.mktemp("one"), "data:1")


@pytest.mark.parametrize("mesh", MESHES)
def test_twenty_steps_on_eight_devices(mesh, one_device, wide_student, rows, tmp_path):
    assert len(jax.devices()) == 8
    weights, losses = run(wide_student, rows, tmp_path, mesh)
    np.testing.assert_allclose(losses, one_device[1], rtol=1e-5)
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, one_device[0][name], atol=1e-5, rtol=0, err_msg=name)
