"""Turns a trained softmax model into one of linear attention (Hedgehog).

`with_teachers` gives each softmax layer feature maps, `distill` trains them to
mimic the layer's weights while everything else stays, and `linear` swaps the
layers. `linearize` is all three. Fine-tuning the result is up to the caller.
Zhang et al. 2024, "The Hedgehog & the Porcupine", arXiv:2402.04347.
"""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from jaxmodels.mixers.hedgehog import HedgehogTeacher
from jaxmodels.mixers.linear_attention import LinearAttention
from jaxmodels.mixers.registry import make_module
from jaxmodels.mixers.softmax_attention import SoftmaxAttention
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.ops.engine import checks

__all__ = ["distill", "linear", "linearize", "with_teachers"]

# Fields of softmax attention that linear attention does not have.
_DEFAULTS = (
  "kv_heads", "window", "qk_norm", "gate", "qkv_bias", "output_bias",
  "softcap", "sinks", "rotary_factor", "rotary_length", "rotary_gain",
)  # fmt: skip
_MAPS = ("query_map", "key_map")


def linearize(
  model: LanguageModel,
  variables: Any,
  batches: Iterable[jax.Array],
  *,
  features: int | None = None,
  learning_rate: float = 1e-2,
) -> tuple[LanguageModel, Any]:
  """A model whose softmax attention is linear attention with Hedgehog's maps.

  Args:
    model: A model with layers of `softmax_attention`; other layers stay.
    variables: Its trained variables.
    batches: Tokens [B, L], all of one shape, one batch per step of `distill`.
    features: The width of the maps, by default that of the heads.
    learning_rate: The learning rate of Adam, which trains the maps.

  Returns:
    The model, and its variables.

  Raises:
    ValueError: A softmax layer has an option that linear attention lacks.
  """
  teachers = with_teachers(model, features)
  variables, _ = distill(teachers, variables, batches, learning_rate)
  return linear(model, features), variables


def with_teachers(
  model: LanguageModel, features: int | None = None
) -> LanguageModel:
  """The model with a `HedgehogTeacher` for each layer of softmax attention."""

  def teacher(layer: SoftmaxAttention) -> nn.Module:
    names = set(SoftmaxAttention.__dataclass_fields__) - {
      "parent",
      "name",
    }
    fields = {name: getattr(layer, name) for name in names if name != "_"}
    return HedgehogTeacher(**fields, features=features, parent=None)

  return _replaced(model, teacher)


def linear(model: LanguageModel, features: int | None = None) -> LanguageModel:
  """The model with `LinearAttention` for each layer of softmax attention.

  Its parameters have the names and shapes of those of `with_teachers`.
  """

  def student(layer: SoftmaxAttention) -> nn.Module:
    width = layer.head_width or layer.width // layer.heads
    return LinearAttention(
      layer.width,
      heads=layer.heads,
      key_width=width,
      value_width=width,
      feature_map="hedgehog",
      features=features,
      rotary_fraction=layer.rotary_fraction,
      rotary_base=layer.rotary_base,
      reverse=layer.reverse,
      one_bit=layer.one_bit,
      parent=None,
    )

  return _replaced(model, student)


def distill(
  model: LanguageModel,
  variables: Any,
  batches: Iterable[jax.Array],
  learning_rate: float = 1e-2,
) -> tuple[Any, list[float]]:
  """Trains the maps of `HedgehogTeacher` layers with Adam, and nothing else.

  Args:
    model: A model of `with_teachers`.
    variables: Those of the softmax model, or of an earlier call.
    batches: Tokens [B, L], all of one shape, one batch per step.
    learning_rate: The learning rate of Adam.

  Returns:
    The variables with trained maps, and the loss of each step: the mean over
    the layers.
  """
  optimizer = optax.adam(learning_rate)
  made: tuple[Any, ...] | None = None
  losses = []

  def loss(maps: Any, rest: Any, tokens: jax.Array) -> jax.Array:
    params = traverse_util.unflatten_dict({**rest, **maps})
    _, sown = model.apply({"params": params}, tokens, mutable=["losses"])
    return jnp.mean(jnp.stack(_flat_means(sown["losses"])))

  @jax.jit
  def step(maps: Any, moments: Any, rest: Any, tokens: jax.Array) -> Any:
    value, slopes = jax.value_and_grad(loss)(maps, rest, tokens)
    # optax promotes dtypes on purpose, also where the caller forbids it.
    with jax.numpy_dtype_promotion("standard"):
      updates, moments = optimizer.update(slopes, moments, maps)
    return optax.apply_updates(maps, updates), moments, value

  for tokens in batches:
    if made is None:
      maps, rest = _split(model, variables, tokens)
      made = maps, optimizer.init(maps)
    *made, value = step(*made, rest, tokens)
    losses.append(value)
  checks.require(made is not None, "distill: batches must not be empty")
  assert made is not None
  params = traverse_util.unflatten_dict({**rest, **made[0]})
  return {**variables, "params": params}, [float(x) for x in losses]


def _flat_means(sown: Any) -> list[jax.Array]:
  """The mean of each sown loss of the teachers."""
  flat = traverse_util.flatten_dict(sown)
  return [
    jnp.mean(jnp.stack(values))
    for path, values in flat.items()
    if path[-1] == "hedgehog"
  ]


def _split(model: LanguageModel, variables: Any, tokens: jax.Array) -> Any:
  """The parameters of the maps, initial if there are none, and the rest."""
  known = traverse_util.flatten_dict(variables["params"])
  initial = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
  every = {**traverse_util.flatten_dict(initial), **known}

  def is_map(path: tuple[str, ...]) -> bool:
    return any(name in _MAPS for name in path)

  maps = {path: x for path, x in every.items() if is_map(path)}
  rest = {path: x for path, x in every.items() if not is_map(path)}
  return maps, rest


def _replaced(model: LanguageModel, new: Any) -> LanguageModel:
  """The model with new modules for its layers of softmax attention."""
  common = {
    "width": model.width,
    "output_scale": 1.0,
    "dtype": model.dtype,
    "param_dtype": model.param_dtype,
  }
  entries = []
  for entry in model.mixers:
    name = entry if isinstance(entry, str) else None
    if name is None and not isinstance(entry, nn.Module):
      name = entry[0]
    own = model.mixer_options.get(name, {}) if name is not None else {}
    layer = make_module("mixer", entry, own, common)
    if isinstance(layer, SoftmaxAttention):
      _check(layer)
      entry = new(layer)
    entries.append(entry)
  return model.copy(mixers=tuple(entries), parent=None)


def _check(layer: SoftmaxAttention) -> None:
  """Checks that linear attention has all options that a layer uses."""
  for field in _DEFAULTS:
    value = getattr(layer, field)
    default = SoftmaxAttention.__dataclass_fields__[field].default
    equal = value == default or (field == "kv_heads" and value == layer.heads)
    checks.require(
      equal,
      f"linearize: {type(layer).__name__} has {field} = {value!r}, but linear "
      "attention has no such option",
    )
