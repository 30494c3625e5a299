"""State as frozen dataclasses that are pytrees."""

import dataclasses

import jax


def pytree(cls):
    """A frozen dataclass all of whose fields are children of a pytree."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])
