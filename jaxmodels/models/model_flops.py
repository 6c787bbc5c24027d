"""Model flops: the flops that an update needs, in any form of computation.

A forward pass takes two flops per token for every weight of a matrix product,
and more to write and read the states of mixers. A backward pass takes twice the
flops of the forward pass. So an update of a model with N parameters takes about
6 N flops per token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), plus
those of the mixers, as in Chowdhery et al. 2022 (PaLM, arXiv:2204.02311,
appendix B). The count leaves out recomputation that saves memory, and any work
of a form beyond that of the recurrence. So programs of one model are
comparable.
"""

from typing import Any, cast

import jax
import numpy as np
from flax import linen as nn

from jaxmodels.analysis import flops
from jaxmodels.analysis.chips import CHIPS
from jaxmodels.ops import Cache

# The gradient of a product is two products of the same size.
_PASSES = 3


def model_flops(model: nn.Module, params: Any, length: int) -> float:
  """Counts the model flops of an update, per token.

  They are three times the flops of the matrix products of one decoding step, in
  which every mixer runs its recurrence, and attention reads its cache. As in
  PaLM, attention counts the longest past that it may see: its window, or the
  sequence if that is shorter. (If attention layers have different windows, the
  count is shared between them in proportion to their caches.)

  Args:
    model: A module with the call and the `init_state` of `LanguageModel`.
    params: Its parameters; only their shapes are read.
    length: L, tokens per sequence.

  Raises:
    ValueError: A primitive, or the number of rounds of a loop, is unknown; see
      `flops.count`.
  """
  token = jax.ShapeDtypeStruct((1, 1), np.int32)

  def step(params: Any, token: Any, state: Any) -> Any:
    return model.apply({"params": params}, token, state)

  # `nn.Module` does not declare the `init_state` of sequence models.
  state = jax.eval_shape(lambda: cast(Any, model).init_state(1))
  whole = flops.count(step, params, token, state).products
  without_past = flops.count(step, params, token, None).products
  past = (whole - without_past) * _filled(state, length)
  return _PASSES * (without_past + past)


def _filled(state: Any, length: int) -> float:
  """The fraction of all caches that the past of a sequence fills."""

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
  """The fraction of the peak of all devices that one token per second uses.

  Multiplied by tokens per second, it is the model flops utilisation (PaLM,
  appendix B).

  Args:
    model: As for `model_flops`.
    params: As for `model_flops`.
    length: As for `model_flops`.
    devices: The number of devices, all of the kind of JAX's first device.

  Returns:
    A fraction of 1, or None if `CHIPS` does not have the device or the model's
    flops cannot be counted.
  """
  chip = CHIPS.get(jax.devices()[0].device_kind)
  if chip is None:
    return None
  try:
    return model_flops(model, params, length) / (chip.peak * devices)
  except ValueError:
    return None
