"""Routers: which few of several experts or memories a token uses."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import projection, wide
from jaxmodels.ops.engine import checks

__all__ = ["Router", "Routes", "route"]


class Router(NamedTuple):
  """How scores become choices and weights.

  Attributes:
    scores: "softmax" over all M, or "sigmoid" of each logit.
    normalize: Whether the weights are the chosen scores divided by their sum.
      If they are, a softmax over all M equals one over the chosen logits.
    epsilon: Added to that sum.
    scale: Factor on the weights.
    bias: Whether to choose by the score plus a bias, the parameter
      "router_bias" [M], initially 0 and float32 or wider. The weights come from
      the scores alone, so the bias has no gradient (Wang et al. 2024,
      arXiv:2408.15664).
    groups: The number of groups of M / groups neighbours. A token chooses
      inside its `top_groups` best groups only; a group counts by the sum of its
      two largest scores, each with its bias (DeepSeek-AI 2024, "DeepSeek-V3",
      arXiv:2412.19437).
    top_groups: The groups that a token chooses from; None for all.
  """

  scores: str = "softmax"
  normalize: bool = True
  epsilon: float = 0.0
  scale: float = 1.0
  bias: bool = False
  groups: int = 1
  top_groups: int | None = None


class Routes(NamedTuple):
  """The choice of each token.

  Attributes:
    chosen: [..., top_k] of int32, the largest score first.
    weights: [..., top_k], which by default sum to 1 per token.
    dense: [..., M], the weights by place, 0 where not chosen.
  """

  chosen: jax.Array
  weights: jax.Array
  dense: jax.Array


def route(
  layer: nn.Module,
  x: jax.Array,
  count: int,
  top_k: int,
  balance: float,
  router: Router | None = None,
) -> Routes:
  """The top_k of softmax(W x), their scores divided by their sum.

  It sows the load-balance loss of Switch Transformers (Fedus et al. 2021,
  arXiv:2101.03961) into the collection "losses", times `balance`: M sum_m f_m
  p_m, with f_m the share of choices that fall on m and p_m the mean score of m,
  where scores of a sigmoid are divided by their sum per token. It is 1 if all
  are equal. With top_k = 1 and normalized weights the weight is 1, so this loss
  alone trains the router. Scores are float32 or wider.

  Args:
    layer: The module that gets the projection "router".
    x: [..., D].
    count: M.
    top_k: The number of choices per token.
    balance: The factor on the loss; 0 sows none.
    router: Other scores, choices and weights; None for those above.

  Raises:
    ValueError: top_k or a field of the router is wrong for M.
  """
  router = router or Router()
  _check(type(layer).__name__, count, top_k, router)
  logits = projection(layer, count, "router", dtype=wide(layer.dtype))(x)
  soft = router.scores == "softmax"
  scores = nn.softmax(logits) if soft else nn.sigmoid(logits)
  chosen = jax.lax.top_k(_preference(layer, scores, router), top_k)[1]
  weights = jnp.take_along_axis(scores, chosen, -1)
  if router.normalize:
    total = jnp.sum(weights, -1, keepdims=True)
    weights = weights / (total + router.epsilon)
  if router.scale != 1:
    weights = weights * router.scale
  hot = jax.nn.one_hot(chosen, count, dtype=scores.dtype)
  if balance and top_k < count:
    flat = tuple(range(x.ndim - 1))
    share = scores if soft else scores / jnp.sum(scores, -1, keepdims=True)
    load = jnp.mean(jnp.mean(hot, -2), flat)
    loss = count * jnp.sum(load * jnp.mean(share, flat))
    layer.sow("losses", "load_balance", balance * loss)
  return Routes(chosen, weights, jnp.sum(weights[..., None] * hot, -2))


def _preference(
  layer: nn.Module, scores: jax.Array, router: Router
) -> jax.Array:
  """What a token chooses by: scores [..., M], biased, -inf outside its groups.

  Without a gradient, because only the scores of the choices have one.
  """
  by = jax.lax.stop_gradient(scores)
  count = scores.shape[-1]
  if router.bias:
    zeros, dtype = nn.initializers.zeros, wide(layer.param_dtype)
    bias = layer.param("router_bias", zeros, (count,), dtype)
    bias = jax.lax.stop_gradient(bias).astype(by.dtype)
    by = by + jnp.expand_dims(bias, range(by.ndim - 1))
  if router.top_groups is None or router.top_groups == router.groups:
    return by
  parts = by.reshape((*by.shape[:-1], router.groups, count // router.groups))
  best = jax.lax.top_k(parts, min(2, parts.shape[-1]))[0]
  kept = jax.lax.top_k(jnp.sum(best, -1), router.top_groups)[1]
  hot = jnp.any(jax.nn.one_hot(kept, router.groups, dtype=bool), -2)
  return jnp.where(hot[..., None], parts, -jnp.inf).reshape(by.shape)


def _check(name: str, count: int, top_k: int, router: Router) -> None:
  """Checks the sizes of a choice among `count`."""
  checks.require(
    1 <= top_k <= count,
    f"{name}: top_k must be between 1 and the number of choices {count}, got "
    f"{top_k}",
  )
  checks.require(
    router.scores in ("softmax", "sigmoid"),
    f'{name}: router must be "softmax" or "sigmoid", got {router.scores!r}',
  )
  groups, top = router.groups, router.top_groups
  checks.require(
    groups >= 1 and count % groups == 0,
    f"{name}: groups must divide the number of choices {count}, got {groups}",
  )
  checks.require(
    top is None or (1 <= top <= groups and top_k <= top * (count // groups)),
    f"{name}: top_groups must be between 1 and groups = {groups}, with at "
    f"least top_k = {top_k} choices in these groups, got {top}",
  )
