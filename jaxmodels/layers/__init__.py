"""Flax Linen modules: parameters and projections around one op each.

A sequence mixer is `mixer(x, state=None, *, segment_ids=None) -> (y, state)`
with x [B, L, D], and `init_state(batch_size)` its zero state, which is the
same as None. The state is an explicit pytree. A channel mixer is
`mlp(x) -> y`. Fields are the configuration; all have `width` (D), `dtype`,
`param_dtype` and `output_scale`, and mixers `axis_name`, the mesh axis that L
is cut over inside `shard_map`; None, as it is by default, for whole sequences.
A state that is returned has the structure, shapes and dtypes of the zero state.
Models check all this while they are traced: see `contract`.

`MIXERS` and `MLPS` name them; the backbone takes them by name. To add one,
put it into the dict.
"""

import functools
from collections.abc import Callable

import flax.linen as nn

from jaxmodels.layers.delta_net import DeltaNet
from jaxmodels.layers.embedding import TokenEmbedding
from jaxmodels.layers.gla import GLA
from jaxmodels.layers.mamba2 import Mamba2
from jaxmodels.layers.mlp import MLP, GatedMLP
from jaxmodels.layers.norms import LayerNorm, RMSNorm, l2_normalize
from jaxmodels.layers.rotary import rotate
from jaxmodels.layers.s5 import S5
from jaxmodels.layers.short_convolution import ShortConvolution
from jaxmodels.layers.softmax_attention import SoftmaxAttention

__all__ = [
  "GLA",
  "MIXERS",
  "MLP",
  "MLPS",
  "S5",
  "DeltaNet",
  "GatedMLP",
  "LayerNorm",
  "Mamba2",
  "RMSNorm",
  "ShortConvolution",
  "SoftmaxAttention",
  "TokenEmbedding",
  "l2_normalize",
  "rotate",
]

MIXERS: dict[str, Callable[..., nn.Module]] = {
  "gla": GLA,
  "delta_net": functools.partial(DeltaNet, output_gate=False),
  "gated_deltanet": functools.partial(DeltaNet, gate="head"),
  "kda": functools.partial(DeltaNet, gate="key"),
  "mamba2": Mamba2,
  "s5": S5,
  "softmax_attention": SoftmaxAttention,
  "sliding_attention": functools.partial(SoftmaxAttention, window=256),
}

# "none" leaves the channel mixer out, as Mamba's blocks do.
MLPS: dict[str, Callable[..., nn.Module] | None] = {
  "gated_mlp": GatedMLP,
  "mlp": MLP,
  "none": None,
}
