"""The language model of multimodal checkpoints, against transformers' own reading of text."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import models
from models.checkpoint.adapters import fits_peft
from tests.models.references import logits_of, relative_error

TEXT = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    vocab_size=64, max_position_embeddings=128, initializer_range=0.4, pad_token_id=0,
)  # fmt: skip
VISION = dict(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    image_size=28,
    patch_size=14,
)
TOKENS = np.random.default_rng(0).integers(1, 60, (2, 20)).astype(np.int32)


def gemma(tied: bool):
    text = TEXT | {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=63,
        tie_word_embeddings=tied,
    )
    config.text_config.tie_word_embeddings = tied
    return transformers.Gemma3ForConditionalGeneration(config)


def mistral(tied: bool):
    vision = VISION | {"model_type": "pixtral", "head_dim": 8}
    config = transformers.Mistral3Config(
        text_config=TEXT | {"model_type": "mistral"},
        vision_config=vision,
        image_token_index=63,
        tie_word_embeddings=tied,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[(gemma, True), (gemma, False), (mistral, True), (mistral, False)])
def checkpoint(request, tmp_path_factory):
    make, tied = request.param
    torch.manual_seed(0)
    model = make(tied).eval()
    directory = tmp_path_factory.mktemp("multimodal")
    model.save_pretrained(directory)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    return directory, logits


def renamed(directory, to):
    """The checkpoint with the names of the other spelling, and without what may be left out of config.json."""
    held = load_file(directory / "model.safetensors")
    old = any(name.startswith("language_model.model.") for name in held)
    pairs = [("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head."),
             ("vision_tower.", "model.vision_tower."), ("multi_modal_projector.", "model.multi_modal_projector.")]  # fmt: skip

    def name_of(name):
        for pair in pairs:
            first, second = pair if old else pair[::-1]
            if name.startswith(first):
                return second + name.removeprefix(first)
        return name

    to.mkdir()
    save_file({name_of(name): tensor for name, tensor in held.items()}, to / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (to / "config.json").write_text(json.dumps(config))
    return {name_of(name) for name in held} != set(held)


def test_logits_of_text_with_either_spelling_of_names(checkpoint, tmp_path):
    directory, expected = checkpoint
    model = models.load(directory)
    assert model.config.multimodal and not fits_peft(model)
    assert relative_error(logits_of(model, TOKENS), expected) < 1e-5
    assert renamed(directory, tmp_path / "other")
    assert relative_error(logits_of(models.load(tmp_path / "other"), TOKENS), expected) < 1e-5


def test_a_saved_copy_is_a_language_model_alone(checkpoint, tmp_path):
    directory, expected = checkpoint
    models.save(models.load(directory), tmp_path / "copy")
    theirs, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "copy", output_loading_info=True
    )
    assert type(theirs).__name__ in ("Gemma3ForCausalLM", "MistralForCausalLM")
    assert not found["missing_keys"] and not found["unexpected_keys"]
    with torch.no_grad():
        logits = theirs(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    assert relative_error(logits, expected) < 1e-5


def test_what_is_no_language_model_of_ours_is_refused(checkpoint, tmp_path):
    config = json.loads((checkpoint[0] / "config.json").read_text())
    for change, told in [
        (
            {"text_config": config["text_config"] | {"model_type": "qwen9"}},
            "text_config has model_type .qwen9.",
        ),
        ({"text_config": [3]}, "config.json: text_config: expected an object"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised by 'fp8'"),
    ]:
        with pytest.raises(models.CheckpointError, match=told):
            models.config_from_hf(config | change)
