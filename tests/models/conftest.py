"""Fixtures of the tests of `models`."""

from typing import Any

import numpy as np
import pytest


@pytest.fixture
def reference(tmp_path):
    """`reference(family, seed, **fields)`: a `Reference` with random fields but for those given."""
    pytest.importorskip("torch")
    from tests.models.references import FAMILIES, Reference, draw_fields, make_reference

    def make(family: str, seed: int = 0, **fields: Any) -> Reference:
        drawn = draw_fields(np.random.default_rng([seed, FAMILIES.index(family)]), family)
        return make_reference(tmp_path / family, family, drawn | fields, seed)

    return make
