"""Model flops: what an update must compute, however it is computed.

A model takes two flops per token for every weight of a matrix product, and more
to write and read the states of its mixers; a backward pass takes twice that
of the forward one. So an update takes about 6 N a token of N parameters
(Kaplan et al. 2020, arXiv:2001.08361, section 2.1), and with the mixers what
Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B) count: what is
computed twice to save memory, or in a form that needs more than the
recurrence, is left out, so that programs of one model can be compared.
"""

from typing import Any, cast

import jax
import numpy as np
from flax import linen as nn

from jaxmodels.analysis import flops
from jaxmodels.analysis.chips import CHIPS
from jaxmodels.ops import Cache

# A product's gradient is two products of its size.
_PASSES = 3


def model_flops(model: nn.Module, params: Any, length: int) -> float:
  """Counts the model flops of an update, a token.

  They are three times the matrix products of one step of decoding: there
  every mixer is its recurrence, and attention reads its cache. As in PaLM
  attention counts all it may see: its window, or the sequence if that is
  shorter. (Attention layers of different windows share what is counted in
  proportion to their caches.)

  Args:
    model: A module with the call and the `init_state` of `LanguageModel`.
    params: Its parameters; only shapes are read.
    length: Tokens per sequence, L.

  Raises:
    ValueError: A primitive is unknown, or a loop's rounds: see `flops.count`.
  """
  token = jax.ShapeDtypeStruct((1, 1), np.int32)

  def step(params: Any, token: Any, state: Any) -> Any:
    return model.apply({"params": params}, token, state)

  # `nn.Module` does not declare what a sequence model has beside it.
  state = jax.eval_shape(lambda: cast(Any, model).init_state(1))
  whole = flops.count(step, params, token, state).products
  without_past = flops.count(step, params, token, None).products
  past = (whole - without_past) * _filled(state, length)
  return _PASSES * (without_past + past)


def _filled(state: Any, length: int) -> float:
  """The share of all caches that the past of a sequence fills."""

  def is_cache(x: Any) -> bool:
    return isinstance(x, Cache)

  caches = [x for x in jax.tree.leaves(state, is_leaf=is_cache) if is_cache(x)]
  room = sum(cache.k.size for cache in caches)
  if not room:
    return 1.0
  filled = sum(
    cache.k.size * min(1.0, (length - 1) / cache.live.shape[-1])
    for cache in caches
    if cache.k.size
  )
  return filled / room


def share_of_peak(
  model: nn.Module, params: Any, length: int, devices: int
) -> float | None:
  """Returns the share of the peak of all devices for one token per second.

  Times tokens per second it is the model flops utilisation (PaLM, appendix B).

  Args:
    model: As for `model_flops`.
    params: Likewise.
    length: Likewise.
    devices: How many there are, all like JAX's first.

  Returns:
    A share of 1; None if the device is none of `CHIPS`, or the model's flops
    cannot be counted.
  """
  chip = CHIPS.get(jax.devices()[0].device_kind)
  if chip is None:
    return None
  try:
    return model_flops(model, params, length) / (chip.peak * devices)
  except ValueError:
    return None
