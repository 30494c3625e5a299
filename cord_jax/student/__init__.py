"""The student: supervised fine-tuning on traces, on the mesh that wrote them, from and to Hugging Face directories.

    from cord_jax import StudentConfig, train
    hf = train(StudentConfig(student="checkpoint", traces="traces.jsonl", output_dir="out"))

rows of a file -> `data` (tokens, and which of them are learnt) -> `batches` (windows, and the order of them)
-> `step` (one compiled optimisation step) -> `trainer` (the loop: resume, checkpoints, metrics, export). What a row is
and what a step minimises say the `objectives`.
"""

import typing

import cord_jax

if typing.TYPE_CHECKING:
    from cord_jax.student.config import StudentConfig
    from cord_jax.student.trainer import train

__all__ = ["StudentConfig", "train"]


def __getattr__(name: str) -> typing.Any:
    """Imports jax only when the training itself is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(cord_jax, name)
