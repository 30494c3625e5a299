"""The student: supervised fine-tuning on traces, on the mesh that wrote them, from and to Hugging Face
directories.

    from cord_jax.student import StudentConfig, train
    hf = train(StudentConfig(student="checkpoint", traces="traces.jsonl", output_dir="out"))

rows of a file -> `data` (tokens, and which of them are learnt) -> `batches` (windows, and the order of them)
-> `step` (one compiled optimisation step) -> `trainer` (the loop: resume, checkpoints, metrics, export).
"""

from cord_jax.student.config import StudentConfig
from cord_jax.student.trainer import train

__all__ = ["StudentConfig", "train"]
