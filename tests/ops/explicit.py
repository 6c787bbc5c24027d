"""Ops on meshes of Explicit axes: their arguments, results and specs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels import ops
from jaxmodels.ops.linear_attention import FAMILY, Tokens
from jaxmodels.testing import relative_error
from tests.ops import draws

LENGTH = 5
TOKENS, STATE = P("d", None, "h"), P("d", "h")
IDS = np.array([[0, 0, 1, 1, 0], [0, 0, 0, 0, -1]], np.int32)


def attention_draw(rng, length):
  drawn = draws.qkv(rng, length)
  del drawn["initial_state"]
  return drawn


def cached_draw(rng, length):
  drawn = attention_draw(rng, length)
  keys, values = rng.standard_normal((2, 2, 3, 2, 8))
  cache = ops.Cache(keys, values[..., :6], np.ones((2, 3), bool))
  return {**drawn, "initial_state": cache}


def convolution_draw(rng, length):
  return {
    "x": rng.standard_normal((2, length, 6)),
    "kernel": rng.standard_normal((4, 6)),
    "initial_state": rng.standard_normal((2, 3, 6)),
  }


def long_draw(rng, length):
  return {
    "x": rng.standard_normal((2, length, 6)),
    "kernel": rng.standard_normal((4, 6)),
  }


def bidirectional_draw(rng, length):
  drawn = draws.linear_attention("head")(rng, length)
  del drawn["initial_state"]
  return drawn


def matrix(name, draw, **specs):
  """An op on heads with a state [B, H, ...]."""
  return getattr(ops, name), draw, specs, (TOKENS, STATE)


CHANNELS = {"x": TOKENS, "kernel": P(None, "h")}
CACHE = ops.Cache(TOKENS, TOKENS, P("d"))
# The op, its draw, the specs of arguments that are neither tokens [B, L, H,
# ...] nor a state [B, H, ...], and those of the results.
CASES = {
  "linear_attention": matrix(
    "linear_attention", draws.linear_attention("head")
  ),
  "linear_attention, bonus": matrix(
    "linear_attention",
    draws.linear_attention("key", bonus=True),
    bonus=P("h"),
  ),
  "delta_rule": matrix("delta_rule", draws.delta_rule("head")),
  "delta_rule, gates": matrix(
    "delta_rule", draws.delta_rule("key", gates=True)
  ),
  "dplr_recurrence": matrix("dplr_recurrence", draws.dplr("key")),
  "normalized_linear_attention": matrix(
    "normalized_linear_attention", draws.normalized(gates=True)
  ),
  "householder_product": matrix(
    "householder_product",
    draws.householder("head"),
    **dict.fromkeys(("k", "v", "beta"), P("d", None, None, "h")),
  ),
  "make_op": (
    ops.make_op("mine", FAMILY, Tokens),
    lambda rng, length: {
      **draws.qkv(rng, length),
      "log_decay": draws.log_decay(rng, length, per_key=True),
    },
    {},
    (TOKENS, STATE),
  ),
  "diagonal_recurrence": (
    ops.diagonal_recurrence,
    lambda rng, length: jax.tree.map(
      lambda x: x[..., :4], draws.diagonal()(rng, length)
    ),
    {},
    (TOKENS, STATE),
  ),
  "dense_recurrence": (
    ops.dense_recurrence,
    draws.dense(),
    {"A": P("d"), "b": P("d"), "initial_state": P("d")},
    (P("d"), P("d")),
  ),
  "dense_recurrence, blocks": (
    functools.partial(ops.dense_recurrence, block_diagonal=True),
    draws.dense(blocks=True),
    {},
    (TOKENS, STATE),
  ),
  "signature": (
    ops.signature,
    draws.signature,
    {"dx": P("d"), "initial_state": P("d")},
    (P("d"), P("d")),
  ),
  "selective_scan": (
    ops.selective_scan,
    draws.selective_scan,
    {"A": P("h"), "D": P(), "B": P("d"), "C": P("d")},
    (TOKENS, STATE),
  ),
  "state_space": (
    ops.state_space,
    draws.state_space(),
    {"A": P("h"), "B": P("h"), "C": P()},
    (TOKENS, STATE),
  ),
  "causal_convolution": (
    ops.causal_convolution,
    convolution_draw,
    {**CHANNELS, "initial_state": TOKENS},
    (TOKENS, TOKENS),
  ),
  "long_convolution": (ops.long_convolution, long_draw, CHANNELS, TOKENS),
  "bidirectional": (ops.bidirectional, bidirectional_draw, {}, TOKENS),
  "attention": (ops.attention, attention_draw, {}, (TOKENS, CACHE)),
  "attention, window": (
    functools.partial(ops.attention, window=4),
    cached_draw,
    {"initial_state": CACHE},
    (TOKENS, CACHE),
  ),
}


def explicit(*axes):
  """A mesh of two by two devices, of JAX's default type."""
  return jax.make_mesh((2,) * len(axes), axes)


def drawn(draw, length=LENGTH):
  def narrow(x):
    return x if x.dtype == bool else x.astype(np.float32)

  return jax.tree.map(narrow, dict(draw(np.random.default_rng(0), length)))


def placed(mesh, arguments, specs):
  """The arguments on the mesh; tokens and states as they usually are."""

  def put(name, tree):
    usual = STATE if name == "initial_state" else TOKENS
    spec = jax.tree.broadcast(specs.get(name, usual), tree)
    return jax.tree.map(
      lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), tree, spec
    )

  return {name: put(name, tree) for name, tree in arguments.items()}


def results(op):
  """The outputs, and the gradients of all arguments."""

  def floats(tree):
    return [x for x in jax.tree.leaves(tree) if x.dtype != bool]

  def evaluate(arguments):
    # Booleans, of a cache, have no gradient.
    flat, tree = jax.tree.flatten(arguments)
    at = [i for i, x in enumerate(flat) if x.dtype != bool]

    def loss(given):
      full = list(flat)
      for i, x in zip(at, given, strict=True):
        full[i] = x
      outputs = op(**jax.tree.unflatten(tree, full))
      return sum(jnp.sum(jnp.sin(y)) for y in floats(outputs)), outputs

    return jax.grad(loss, has_aux=True)([flat[i] for i in at])

  return evaluate


def specs_of(tree):
  """The spec of each leaf, an array or a type, without axes that are whole."""

  def spec(x):
    kind = jax.typeof(x) if isinstance(x, jax.Array) else x
    entries = list(kind.sharding.spec)
    while entries and entries[-1] is None:
      entries.pop()
    return P(*entries)

  return [spec(x) for x in jax.tree.leaves(tree)]


def assert_close(got, wanted):
  leaves = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
  for a, b in leaves:
    assert relative_error(np.asarray(a), np.asarray(b)) < 2e-5
