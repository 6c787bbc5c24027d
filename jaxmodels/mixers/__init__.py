"""Sequence mixers: parameters and projections around one op each.

A sequence mixer is `mixer(x, state=None, *, segment_ids=None) -> (y, state)`
with x [B, L, D], and `init_state(batch_size)` its zero state, which is the
same as None. The state is an explicit pytree; what a call returns has the
structure, shapes and dtypes of the zero state. Fields are the configuration.
All mixers have `width` (D), `dtype`, `param_dtype`, `output_scale` and
`axis_name`, the mesh axis over which L is sharded inside `shard_map`; None,
the default, means whole sequences. Models check all this while they are
traced: see `contract`.

`MIXERS` names them; the backbone takes them by name. To add one, put it into
the dict.
"""

import functools
from collections.abc import Callable

import flax.linen as nn

from jaxmodels.mixers.delta_net import DeltaNet
from jaxmodels.mixers.gla import GLA
from jaxmodels.mixers.mamba2 import Mamba2
from jaxmodels.mixers.s5 import S5
from jaxmodels.mixers.softmax_attention import SoftmaxAttention

__all__ = ["GLA", "MIXERS", "S5", "DeltaNet", "Mamba2", "SoftmaxAttention"]

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


def __dir__() -> list[str]:
  return __all__
