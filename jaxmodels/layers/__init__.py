"""Flax Linen modules that mixers and models share.

A channel mixer has the call of a mixer, `mlp(x, state=None, *,
segment_ids=None) -> (y, state)` with x [B, L, D]; those here look at each token
alone, and their state is (). `MLPS` names them. The backbone takes names and
modules, so one of your own need not be in the dict.
"""

from collections.abc import Callable

import flax.linen as nn

from jaxmodels.layers.embedding import TokenEmbedding
from jaxmodels.layers.mlp import MLP, GatedMLP
from jaxmodels.layers.norms import LayerNorm, RMSNorm, l2_normalize
from jaxmodels.layers.rotary import rotate
from jaxmodels.layers.short_convolution import ShortConvolution

__all__ = [
  "MLP",
  "MLPS",
  "GatedMLP",
  "LayerNorm",
  "RMSNorm",
  "ShortConvolution",
  "TokenEmbedding",
  "l2_normalize",
  "rotate",
]

# "none" leaves the channel mixer out, as Mamba's blocks do.
MLPS: dict[str, Callable[..., nn.Module] | None] = {
  "gated_mlp": GatedMLP,
  "mlp": MLP,
  "none": None,
}


def __dir__() -> list[str]:
  return __all__
