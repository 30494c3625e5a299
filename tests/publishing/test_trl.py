"""TRL's trainers on a published data set, as it is."""

import pytest

datasets = pytest.importorskip("datasets")
pytest.importorskip("trl")
pytest.importorskip("torch")

from cord_jax.publishing.config import PublishConfig  # noqa: E402
from cord_jax.publishing.job import publish  # noqa: E402
from tests.publishing.synthetic import write_run  # noqa: E402
from tests.reference.tiny import write_checkpoint, write_tokenizer  # noqa: E402

OPTIONS = dict(
    max_steps=2, per_device_train_batch_size=2, max_length=4096, report_to="none", use_cpu=True, bf16=False
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set and a small checkpoint."""
    directory = tmp_path_factory.mktemp("trl")
    run = write_run(directory / "run", range(12))
    publish(PublishConfig(run=run, output_dir=directory / "set"))
    write_checkpoint(directory / "model", write_tokenizer(directory / "tokenizer", "digits"), "qwen2", seed=5)
    return directory


def load(world, name):
    return datasets.load_dataset(str(world / "set"), name, split="train", cache_dir=str(world / "cache"))


def losses(trainer):
    trainer.train()
    assert trainer.state.global_step == 2
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.slow
def test_sft_takes_the_traces(world):
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(output_dir=str(world / "sft"), logging_steps=1, **OPTIONS)
    trainer = SFTTrainer(str(world / "model"), args=arguments, train_dataset=load(world, "default"))
    assert len(losses(trainer)) == 2
    row = load(world, "default")[0]
    text = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    assert f"<think>\n{row['reasoning']}</think>\n\n{row['response']}" in text


@pytest.mark.slow
def test_dpo_takes_the_pairs(world):
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(output_dir=str(world / "dpo"), logging_steps=1, **OPTIONS)
    trainer = DPOTrainer(str(world / "model"), args=arguments, train_dataset=load(world, "pairs"))
    found = losses(trainer)
    assert found[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: student and reference are one
