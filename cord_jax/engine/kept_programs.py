"""Compiled searches, kept on disk beside JAX's own compilation cache.

JAX's persistent cache leaves out programs that call the host, as the search does in its exchange. Nothing stands in the
way: such a program names its callbacks by their numbers, and a runtime that loads it takes the callbacks of this process
(jaxlib's `deserialize_executable`, as of jax 0.10). So the search is lowered at every start, which takes a few seconds, and
what was compiled from the very same lowered program, by the same jax for the same devices, options and processor, is
loaded. A program that differs in anything has another key. Where a part of jax that this leans on is missing, or the
platform keeps callbacks in another way (TPUs), programs are compiled as always.
"""

import contextlib
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

# Platforms whose programs name callbacks by number.
_PLATFORMS = ("cpu", "gpu", "cuda", "rocm")
_DIGEST_BYTES = hashlib.sha256().digest_size
_lock = threading.Lock()


def compile_or_load(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a lowered program, or loads what an earlier process has compiled of the very same one."""
    with _keeping_programs_that_call_the_host():
        return lowered.compile()


@contextlib.contextmanager
def _keeping_programs_that_call_the_host() -> Iterator[None]:
    """Compiles with a cache that has such programs, too, in this thread or any other."""
    directory = jax.config.jax_compilation_cache_dir
    try:
        from jax._src import compilation_cache, compiler

        original = compiler.compile_or_get_cached
        key_of = compilation_cache.get_cache_key
    except (ImportError, AttributeError):
        directory = None
    if not directory or not jax.config.jax_enable_compilation_cache:
        yield
        return
    with _lock:
        compiler.compile_or_get_cached = partial(_compile, original, key_of, Path(directory))
        try:
            yield
        finally:
            compiler.compile_or_get_cached = original


def _compile(
    original: Callable,
    key_of: Callable,
    directory: Path,
    backend: Any,
    computation: Any,
    devices: Any,
    compile_options: Any,
    host_callbacks: Any,
    executable_devices: Any,
    *more: Any,
    **named: Any,
) -> Any:
    """What takes the place of `jax._src.compiler.compile_or_get_cached`, with its arguments."""
    as_always = partial(
        original,
        backend,
        computation,
        devices,
        compile_options,
        host_callbacks,
        executable_devices,
        *more,
        **named,
    )
    if not host_callbacks or backend.platform not in _PLATFORMS or jax.process_count() > 1:
        return as_always()
    try:
        key = key_of(computation, devices, compile_options, backend)
        path = directory / f"{key}-{_processor()}-calling-host"
    except Exception:  # jax's own key, which another version may make in another way
        return as_always()
    if (program := _read(path)) is not None:
        try:
            return backend.deserialize_executable(
                program, executable_devices, compile_options, list(host_callbacks)
            )
        except Exception:  # of a runtime that cannot load what it has written
            pass
    executable = as_always()
    try:
        _write(path, _serialized(backend, executable))
    except Exception:  # a full disk, or a runtime that cannot write programs: the next start compiles
        pass
    return executable


def _serialized(backend: Any, executable: Any) -> bytes:
    if hasattr(backend, "serialize_executable"):
        return backend.serialize_executable(executable)
    return executable.serialize()


def _processor() -> str:
    """A hash of what the processor can do, for which programs of a CPU are compiled."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            facts = {line for line in file if line.startswith(("flags", "Features", "model name"))}
    except OSError:
        facts = set()
    return hashlib.sha256("".join(sorted(facts)).encode()).hexdigest()[:16]


def _read(path: Path) -> bytes | None:
    """A program that was kept; None if there is none, or not as it was written."""
    try:
        content = path.read_bytes()
        digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return zlib.decompress(packed) if hashlib.sha256(packed).digest() == digest else None
    except (OSError, zlib.error):
        return None


def _write(path: Path, program: bytes) -> None:
    """Keeps a program; another process finds all of it or nothing."""
    packed = zlib.compress(program, 1)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(hashlib.sha256(packed).digest() + packed)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
