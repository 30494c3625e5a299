"""The real vocabularies, each loaded once."""

import functools

import pytest

from cord_jax.text.vocabulary import Vocabulary

FAMILIES = ("qwen2.5", "qwq-32b", "deepseek-r1-distill-qwen", "deepseek-r1", "llama-3.1", "phi-4", "phi-3")


@pytest.fixture(scope="session")
def load_real(shared_dir):
    """A function from the name of a directory of real vocabularies to its `Vocabulary`."""
    return functools.cache(lambda name: Vocabulary.load(shared_dir / "tokenizers" / name))


@pytest.fixture(params=FAMILIES)
def real(request, load_real) -> Vocabulary:
    """Every real vocabulary in turn."""
    return load_real(request.param)
