"""Routers: which few of several experts or memories a token uses."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import projection, wide
from jaxmodels.ops.engine import checks

__all__ = ["Routes", "route"]


class Routes(NamedTuple):
  """The choice of each token.

  Attributes:
    chosen: [..., top_k] of int32, the largest score first.
    weights: [..., top_k], which sum to 1 per token.
    dense: [..., M], the weights by place, 0 where not chosen.
  """

  chosen: jax.Array
  weights: jax.Array
  dense: jax.Array


def route(
  layer: nn.Module, x: jax.Array, count: int, top_k: int, balance: float
) -> Routes:
  """The top_k of softmax(W x), their scores divided by their sum.

  It sows the load-balance loss of Switch Transformers (Fedus et al. 2021,
  arXiv:2101.03961) into the collection "losses", times `balance`: M sum_m f_m
  p_m, with f_m the share of choices that fall on m and p_m the mean score of m.
  It is 1 if all are equal. With top_k = 1 the weight is 1, so this loss alone
  trains the router. Scores are float32 or wider.

  Args:
    layer: The module that gets the projection "router".
    x: [..., D].
    count: M.
    top_k: The number of choices per token.
    balance: The factor on the loss; 0 sows none.

  Raises:
    ValueError: top_k is not in [1, M].
  """
  name = type(layer).__name__
  checks.require(
    1 <= top_k <= count,
    f"{name}: top_k must be between 1 and the number of choices {count}, got "
    f"{top_k}",
  )
  logits = projection(layer, count, "router", dtype=wide(layer.dtype))(x)
  scores = nn.softmax(logits)
  weights, chosen = jax.lax.top_k(scores, top_k)
  weights = weights / jnp.sum(weights, -1, keepdims=True)
  hot = jax.nn.one_hot(chosen, count, dtype=scores.dtype)
  if balance and top_k < count:
    flat = tuple(range(x.ndim - 1))
    load = jnp.mean(jnp.mean(hot, -2), flat)
    loss = count * jnp.sum(load * jnp.mean(scores, flat))
    layer.sow("losses", "load_balance", balance * loss)
  return Routes(chosen, weights, jnp.sum(weights[..., None] * hot, -2))
