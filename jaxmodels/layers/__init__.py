"""Flax Linen modules that mixers and models share.

A channel mixer is called like a mixer, `mlp(x, state=None, *,
segment_ids=None) -> (y, state)` with x [B, L, D]. The channel mixers of this
package map each token on its own, and their state is (), except for
`RWKVChannelMix`, which also reads the token before. `MLPS` has their names.
The backbone takes names and modules, so a module of your own works without an
entry in `MLPS`.
"""

from collections.abc import Callable

import flax.linen as nn

from jaxmodels.layers.bilinear_mlp import BilinearMLP
from jaxmodels.layers.channel_mix import RWKVChannelMix
from jaxmodels.layers.embedding import TokenEmbedding
from jaxmodels.layers.memoryformer import MemoryFormer
from jaxmodels.layers.mlp import MLP, GatedMLP
from jaxmodels.layers.norms import LayerNorm, RMSNorm, l2_normalize
from jaxmodels.layers.rotary import rotate
from jaxmodels.layers.short_convolution import ShortConvolution
from jaxmodels.layers.sparse_moe import SparseMoE
from jaxmodels.layers.tokenformer import TokenFormer

__all__ = [
  "MLP",
  "MLPS",
  "BilinearMLP",
  "GatedMLP",
  "LayerNorm",
  "MemoryFormer",
  "RMSNorm",
  "RWKVChannelMix",
  "ShortConvolution",
  "SparseMoE",
  "TokenEmbedding",
  "TokenFormer",
  "l2_normalize",
  "rotate",
]

# "none" is no channel mixer, as in Mamba's blocks.
MLPS: dict[str, Callable[..., nn.Module] | None] = {
  "gated_mlp": GatedMLP,
  "mlp": MLP,
  "bilinear_mlp": BilinearMLP,
  "memoryformer": MemoryFormer,
  "sparse_moe": SparseMoE,
  "tokenformer": TokenFormer,
  "rwkv_channel_mix": RWKVChannelMix,
  "none": None,
}


def __dir__() -> list[str]:
  return __all__
