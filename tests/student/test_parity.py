"""Fifty steps beside a plain torch loop over transformers, which sees every row by itself."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from cord_jax.student import StudentConfig, train
from cord_jax.student.batches import plan
from cord_jax.student.data import read_examples
from cord_jax.text.vocabulary import Vocabulary
from tests.student.students import read_metrics, write_student

STEPS, BATCH, LENGTH, RATE, CLIP = 50, 4, 256, 2e-3, 2.0


def torch_loop(student, examples, batches):
    """Losses and gradient norms: one row at a time, its target tokens only, no padding and no packing."""
    model = AutoModelForCausalLM.from_pretrained(
        student, dtype=torch.float32, attn_implementation="eager"
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, STEPS)
    losses, norms = [], []
    for batch in batches:
        rows = [examples[i] for window in batch for i in window]
        targets = sum(len(row.tokens) - row.prompt_length for row in rows)
        optimizer.zero_grad()
        total = 0.0
        for row in rows:
            tokens = torch.tensor(row.tokens, dtype=torch.long)[None]
            logits = model(tokens).logits[0, row.prompt_length - 1 : -1]
            loss = (
                torch.nn.functional.cross_entropy(logits, tokens[0, row.prompt_length :], reduction="sum")
                / targets
            )
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        losses.append(total)
        optimizer.step()
        schedule.step()
    return model, losses, norms


@pytest.mark.parametrize(
    "family, pack",
    [
        ("qwen2", True),
        ("qwen2", False),
        ("llama", True),
        ("phi3", True),
        pytest.param("llama", False, marks=pytest.mark.slow),
        pytest.param("phi3", False, marks=pytest.mark.slow),
    ],
)
def test_fifty_steps_beside_torch(family, pack, rows, tmp_path):
    student = write_student(tmp_path / "student", family)
    examples, _ = read_examples(rows, Vocabulary.load(student), max_length=LENGTH)
    batches = plan(
        [len(e.tokens) for e in examples],
        epochs=20,
        batch_size=BATCH,
        max_length=LENGTH,
        pack=pack,
        seed=3,
        max_steps=STEPS,
    ).windows
    model, losses, norms = torch_loop(student, examples, batches)
    hf = train(
        StudentConfig(
            student,
            rows,
            tmp_path / "out",
            pack=pack,
            max_length=LENGTH,
            epochs=20,
            max_steps=STEPS,
            batch_size=BATCH,
            learning_rate=RATE,
            warmup=0.0,
            seed=3,
            mesh="data:1",
            checkpoint_every=0,
            plot=False,
            max_grad_norm=CLIP,
            accumulation=2 if pack else 1,
        )
    )
    metrics = read_metrics(tmp_path / "out")
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-4)
    np.testing.assert_allclose([m["grad_norm"] for m in metrics], norms, rtol=1e-4)
    assert losses[-1] < 0.7 * losses[0]
    assert max(norms) > CLIP > min(norms)  # clipping had something to do, and sometimes nothing

    # What is exported is what was trained, and transformers reads it.
    exported = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    tokens = torch.tensor(examples[0].tokens, dtype=torch.long)[None]
    with torch.no_grad():
        np.testing.assert_allclose(exported(tokens).logits.numpy(), model(tokens).logits.numpy(), atol=1e-3)
