"""Meshes as text, over eight simulated devices."""

import jax
import pytest
from jax.sharding import AxisType

from cord_jax.errors import UserError
from cord_jax.mesh import join_processes, parse_mesh


@pytest.mark.parametrize(
    "text, shape",
    [
        ("data:1,model:-1", {"data": 1, "model": 8}),
        ("model:2, data:-1", {"data": 4, "model": 2}),
        ("data:2", {"data": 2, "model": 1}),
        ("data:2,fsdp:-1,model:2", {"data": 2, "fsdp": 2, "model": 2}),
    ],
)
def test_meshes(text, shape):
    mesh = parse_mesh(text)
    assert dict(mesh.shape) == shape and list(mesh.shape) == list(shape)
    assert all(kind == AxisType.Auto for kind in mesh.axis_types)


def test_devices_can_be_named():
    mesh = parse_mesh("data:-1", jax.devices()[4:6])
    assert {device.id for device in mesh.devices.flat} == {device.id for device in jax.devices()[4:6]}


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "no axis ''"),
        ("data", "the size of data is ''"),
        ("dat:1", "no axis 'dat'"),
        ("data:0", "'0'"),
        ("data:two", "'two'"),
        ("data:1,data:2", "given twice"),
        ("data:-1,model:-1", "more than one size is -1"),
        ("data:3,model:-1", "8 devices do not divide by 3"),
        ("data:4,model:4", "asks for 16 devices and there are 8"),
        ("data:²", "'²'"),
    ],
)
def test_wrong_meshes_are_one_line(text, part):
    with pytest.raises(UserError) as caught:
        parse_mesh(text)
    assert (
        part in str(caught.value) and f"--mesh={text}" in str(caught.value) and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize("text", ["some", "host:12", "host,2,0", "host:12,2,2", "host:12,2,-1", "host:12,2"])
def test_wrong_process_descriptions_are_one_line(text):
    with pytest.raises(UserError, match="--distributed="):
        join_processes(text)


def test_a_lone_process_needs_nothing():
    join_processes("none")
    assert jax.process_count() == 1
