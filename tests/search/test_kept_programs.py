"""Compiled programs that call the host are kept on disk, and only the very same program is ever loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cord_jax.engine import kept_programs
from cord_jax.engine.kept_programs import compile_or_load


@pytest.fixture
def directory(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def lowered(host, turns: int = 3, factor: float = 1.0, size: int = 4):
    """A loop that calls the host in every turn, as the search does."""

    def body(carry):
        turn, x = carry
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return turn + 1, factor * x + jax.pure_callback(lambda x: host(np.asarray(x)), shape, x)

    def program(x):
        return jax.lax.while_loop(lambda carry: carry[0] < turns, body, (0, x))[1]

    return jax.jit(program).lower(jnp.ones(size))


@pytest.fixture
def compiled(monkeypatch):
    """The programs that were compiled and not loaded."""
    from jax._src import compiler

    names, original = [], compiler.backend_compile_and_load

    def note(backend, module, *arguments, **named):
        names.append(module)
        return original(backend, module, *arguments, **named)

    monkeypatch.setattr(compiler, "backend_compile_and_load", note)
    return names


def kept(directory) -> list:
    return sorted(directory.glob("*-calling-host"))


def test_the_same_program_is_loaded_and_calls_this_process(directory, compiled):
    first = compile_or_load(lowered(lambda x: x))
    assert np.asarray(first(jnp.ones(4))) == pytest.approx(8.0)
    assert len(kept(directory)) == 1
    calls, before = [], len(compiled)

    def host(x):
        calls.append(x)
        return 2 * x

    second = compile_or_load(lowered(host))
    assert np.asarray(second(jnp.ones(4))) == pytest.approx(27.0)
    assert len(calls) == 3 and len(compiled) == before and len(kept(directory)) == 1


@pytest.mark.parametrize("changed", [{"turns": 4}, {"factor": 1.5}, {"size": 5}], ids=str)
def test_another_program_is_compiled(directory, changed):
    compile_or_load(lowered(lambda x: x))
    compile_or_load(lowered(lambda x: x, **changed))
    assert len(kept(directory)) == 2


def test_another_jax_or_processor_compiles_anew(directory, monkeypatch):
    compile_or_load(lowered(lambda x: x))
    monkeypatch.setattr(kept_programs, "_processor", lambda: "another")
    compile_or_load(lowered(lambda x: x))
    assert len(kept(directory)) == 2
    from jax._src import cache_key

    monkeypatch.setattr(cache_key, "jaxlib_version_str", "0.0.0")
    keys = {path.name for path in kept(directory)}
    compile_or_load(lowered(lambda x: x))
    assert {path.name for path in kept(directory)} - keys


@pytest.mark.parametrize("damage", [lambda x: x[:100], lambda x: b"", lambda x: x[:-1] + bytes([x[-1] ^ 1])])
def test_what_was_damaged_is_compiled_anew(directory, compiled, damage):
    compile_or_load(lowered(lambda x: x))
    (path,) = kept(directory)
    whole, before = path.read_bytes(), len(compiled)
    path.write_bytes(damage(whole))
    again = compile_or_load(lowered(lambda x: x))
    assert np.asarray(again(jnp.ones(4))) == pytest.approx(8.0)
    assert len(compiled) == before + 1
    assert kept_programs._read(path) is not None


def test_without_a_cache_it_compiles_as_always(tmp_path, directory):
    jax.config.update("jax_compilation_cache_dir", None)
    assert np.asarray(compile_or_load(lowered(lambda x: x))(jnp.ones(4))) == pytest.approx(8.0)
    assert not kept(tmp_path)


@pytest.mark.parametrize("part", ["_write", "_serialized", "_processor"])
def test_a_full_disk_or_another_runtime_is_no_error(directory, monkeypatch, part):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_programs, part, refuse)
    assert np.asarray(compile_or_load(lowered(lambda x: x))(jnp.ones(4))) == pytest.approx(8.0)
    assert not kept(directory)
