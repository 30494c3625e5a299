"""Decoder-only transformers as Flax NNX modules, loaded from and saved to Hugging Face checkpoints.

    model = models.load("path/to/checkpoint", mesh=mesh)
    logits_btv = model(tokens_bt)
    models.save(model, "path/to/copy", source="path/to/checkpoint")

Names of arrays end in letters that give their axes:

    b batch · t query tokens · s key tokens · d model width · f feed-forward width · v vocabulary
    h query heads · g key-value heads · m query heads of one key-value head · e head width · l layers · x
    experts

`config` is the architecture, `families` what differs between families and the tensor names, `decoder` and
`layers` the network, `rope` and `attention` its arithmetic, `checkpoint` loading and saving, `sharding` the
layout over devices.
"""

from models.checkpoint.load_save import abstract as abstract
from models.checkpoint.load_save import build as build
from models.checkpoint.load_save import load as load
from models.checkpoint.load_save import read_config as read_config
from models.checkpoint.load_save import save as save
from models.config import ModelConfig as ModelConfig
from models.decoder import Decoder as Decoder
from models.errors import CheckpointError as CheckpointError
from models.execution import Execution as Execution
from models.execution import execution_of as execution_of
from models.families import config_from_hf as config_from_hf
