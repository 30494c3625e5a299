"""Decoder-only transformers as Flax NNX modules, loaded from and saved to Hugging Face checkpoints.

    model = models.load("path/to/checkpoint", mesh=mesh)
    logits_btv = model(tokens_bt)
    models.save(model, "path/to/copy", source="path/to/checkpoint")

Names of arrays end in letters that give their axes, each letter with one meaning:

    b sequences: rows of a batch, branches of a slot's prefix tree · t tokens of a sequence, in their order
    s key columns: tokens that are read · v vocabulary · l layers · x experts · j experts of a token
    d model width · f feed-forward width · i inputs and o outputs of a projection
    h query heads · g key-value heads · m query heads of one key-value head · e head width
    p tokens or rows in a line, whatever they belong to
    n slots, or whatever has a KV cache of its own · q query rows of a slot · r a few rows of slots
    w places of a packed text · c tokens of a chunk · k chunks: runs of tokens or columns that are handled at a time
    u queries that read the same columns together: the rows of a slot, or a chunk

`config` is the architecture, `families` what differs between families and the tensor names, `decoder` and
`layers` the network, `rope` and `attention` its arithmetic, `execution` how it runs on a mesh, `prefill` its forward
pass over a prefix tree, `checkpoint` loading and saving, `sharding` the layout over devices.
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
