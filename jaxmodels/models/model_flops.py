"""Model flops: the flops that an update needs, in any form of computation.

A forward pass takes two flops per token for every weight of a matrix product,
and more to write and read the states of mixers. A backward pass takes twice the
flops of the forward pass. So an update of a model with N parameters takes about
6 N flops per token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), plus
those of the mixers, as in Chowdhery et al. 2022 (PaLM, arXiv:2204.02311,
appendix B). The count leaves out recomputation that saves memory, and any work
of a form beyond that of the recurrence. So programs of one model are
comparable. Models that cannot decode, such as one that reads a sequence in both
directions, have no recurrence over tokens: their forward pass over a whole
sequence is counted instead, in the form that it has.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import linen as nn

from jaxmodels.analysis import flops
from jaxmodels.analysis.chips import CHIPS
from jaxmodels.models.lora import LoRA, without_lora
from jaxmodels.ops import Cache
from jaxmodels.ops.attention.latent import LatentCache

# The gradient of a product is two products of the same size.
_PASSES = 3


class ModelFlops(NamedTuple):
  """The model flops of an update.

  Attributes:
    per_token: Flops per token.
    unknown: Primitives of unknown flops in the counted program: see
      `jaxmodels.analysis.flops.Flops`. Only matrix products are model flops,
      so a product in such a primitive is missing from `per_token`.
  """

  per_token: float
  unknown: frozenset[str] = frozenset()


def model_flops(
  model: nn.Module,
  params: Any,
  length: int,
  *,
  inputs: Any = None,
  collections: Mapping[str, Any] | None = None,
) -> ModelFlops:
  """Counts the model flops of an update, per token.

  They are three times the flops of the matrix products of one decoding step, in
  which every mixer runs its recurrence, and attention reads its cache. As in
  PaLM, attention counts the longest past that it may see: its window, or the
  sequence if that is shorter. (If attention layers have different windows, the
  count is shared between them in proportion to their caches.)

  Where the model has no `init_state`, refuses to decode, or reads other inputs
  than tokens, they are three times the matrix products of a forward pass over
  one sequence, divided by its length.

  Args:
    model: A module with the call of `LanguageModel`.
    params: Its parameters; only their shapes are read.
    length: L, tokens per sequence.
    inputs: The shape and dtype of one sequence of inputs, with a batch axis of
      size 1 in front (or a pytree of them); None for tokens [1, L].
    collections: Other variables that the model reads, such as statistics.
  """
  rest = collections or {}
  if isinstance(model, LoRA):
    lora, given = model, {"params": params, **rest}
    rest = jax.eval_shape(lambda given: without_lora(lora, given)[1], given)
    model, params = lora.model, rest.pop("params")

  def apply(params: Any, *arguments: Any) -> Any:
    return model.apply({"params": params, **rest}, *arguments)

  if inputs is None and hasattr(model, "init_state"):
    # The error of a model that cannot decode depends on its layers.
    with contextlib.suppress(ValueError, TypeError, NotImplementedError):
      return _decoding(model, apply, params, length)
  if inputs is None:
    inputs = jax.ShapeDtypeStruct((1, length), np.int32)
  found = flops.count(apply, params, inputs)
  return ModelFlops(_PASSES * found.products / length, found.unknown)


def _decoding(
  model: nn.Module, apply: Callable[..., Any], params: Any, length: int
) -> ModelFlops:
  """Counts three times the matrix products of one decoding step."""
  token = jax.ShapeDtypeStruct((1, 1), np.int32)
  # `nn.Module` does not declare the `init_state` of sequence models.
  state = jax.eval_shape(lambda: cast(Any, model).init_state(1))
  whole = flops.count(apply, params, token, state)
  without_past = flops.count(apply, params, token, None).products
  past = (whole.products - without_past) * _filled(state, length)
  return ModelFlops(_PASSES * (without_past + past), whole.unknown)


def _filled(state: Any, length: int) -> float:
  """The fraction of all caches that the past of a sequence fills."""

  def is_cache(x: Any) -> bool:
    return isinstance(x, Cache | LatentCache)

  caches = [x for x in jax.tree.leaves(state, is_leaf=is_cache) if is_cache(x)]
  # The first array of a cache holds its keys, or the latents of them.
  room = sum(cache[0].size for cache in caches)
  if not room:
    return 1.0
  filled = sum(
    cache[0].size * min(1.0, (length - 1) / cache.live.shape[-1])
    for cache in caches
    if cache[0].size
  )
  return filled / room


def share_of_peak(
  model: nn.Module,
  params: Any,
  length: int,
  devices: int,
  log: Callable[[str], None] = lambda line: None,
  **options: Any,
) -> float | None:
  """The fraction of the peak of all devices that one token per second uses.

  Multiplied by tokens per second, it is the model flops utilisation (PaLM,
  appendix B).

  Args:
    model: As for `model_flops`.
    params: As for `model_flops`.
    length: As for `model_flops`.
    devices: The number of devices, all of the kind of JAX's first device.
    log: Takes one line about primitives of unknown flops, or the reason why
      the flops of a model cannot be counted.
    **options: Keyword arguments of `model_flops`.

  Returns:
    A fraction of 1, or None if `CHIPS` does not have the device or the model
    cannot be traced.
  """
  chip = CHIPS.get(jax.devices()[0].device_kind)
  if chip is None:
    return None
  try:
    found = model_flops(model, params, length, **options)
  # A user's own model may raise any error.
  except Exception as error:
    log(f"model_flops_utilization is left out: {error}")
    return None
  if found.unknown:
    log(flops.unknown_line(found.unknown))
  return found.per_token / (chip.peak * devices)
