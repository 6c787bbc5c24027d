"""Ops on arrays whose types carry their sharding: meshes of Explicit axes."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
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


def check(name, method=None, values=True):
  """Results are cut as arguments are, and equal those without a mesh.

  Types carry how arrays are cut: without the values, tracing is enough.
  """
  op, draw, specs, returns = CASES[name]
  if name != "long_convolution":
    op = functools.partial(op, segment_ids=IDS)
  if method is not None:
    op = functools.partial(op, method=method, chunk_size=4)
  arguments = drawn(draw)
  on_mesh = placed(explicit("d", "h"), arguments, specs)
  if values:
    slopes, outputs = jax.jit(results(op))(on_mesh)
    assert_close((slopes, outputs), jax.jit(results(op))(arguments))
  else:
    traced = jax.jit(results(op)).trace(on_mesh)
    slopes, outputs = jax.tree.unflatten(
      jax.tree.structure(traced.out_info), traced.jaxpr.out_avals
    )
  given = [x for x in jax.tree.leaves(on_mesh) if x.dtype != bool]
  assert specs_of(slopes) == specs_of(given)
  expected = jax.tree.broadcast(returns, outputs)
  assert specs_of(outputs) == jax.tree.leaves(expected)


# Heads, channels and a state of several arrays; and the op without other
# forms. The values of the others are compared in every form.
COMPARED = (
  "linear_attention",
  "selective_scan",
  "normalized_linear_attention",
  "long_convolution",
  "attention, window",
)


@pytest.mark.parametrize("name", CASES)
def test_an_op_keeps_how_its_arguments_are_cut(name):
  check(name, values=name in COMPARED)


FORMS = ("recurrent", "associative", "chunked", "chunk_parallel")
LOCAL = {
  "causal_convolution": ("recurrent", "chunk_parallel"),
  "attention": ("recurrent", "chunked", "quadratic"),
  "attention, window": ("recurrent", "chunked", "quadratic"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "method"),
  [
    (name, method)
    for name in CASES
    if name != "long_convolution"
    for method in LOCAL.get(name, FORMS)
  ],
)
def test_every_form_keeps_how_its_arguments_are_cut(name, method):
  check(name, method)


@pytest.mark.parametrize(
  "op", [ops.kalman_filter, ops.kalman_smoother], ids=lambda op: op.__name__
)
def test_a_batch_of_kalman_scans(op):
  y = np.random.default_rng(0).normal(size=(2, LENGTH, 1)).astype(np.float32)
  F = np.array([[1, 0.5], [0, 1]], np.float32)
  H, unit = np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def evaluate(y):
    states, likelihood = jax.vmap(
      lambda y: op(y, F, unit, H, unit[:1, :1], np.zeros_like(F[0]), unit)
    )(y)
    return jnp.sum(jnp.sin(states.mean)) + jnp.sum(likelihood), states

  on_mesh = jax.device_put(y, NamedSharding(explicit("d"), P("d")))
  got = evaluate(on_mesh)
  assert_close(got, evaluate(y))
  assert specs_of((got[0][1], got[1])) == [P("d")] * 3


@functools.cache
def linear(name="linear_attention"):
  """The op, its arguments, and its results without a mesh."""
  _, draw, _, _ = CASES[name]
  arguments = drawn(draw)
  op = functools.partial(getattr(ops, name), method="chunked", chunk_size=4)
  return op, arguments, jax.jit(results(op))(arguments)


@pytest.mark.parametrize(
  "jitted", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_in_the_context_of_the_mesh(jitted):
  op, arguments, wanted = linear()
  mesh = explicit("d", "h")
  evaluate = jax.jit(results(op)) if jitted else results(op)
  with jax.set_mesh(mesh):
    got = evaluate(placed(mesh, arguments, {}))
  assert_close(got, wanted)


@pytest.mark.parametrize("context", [False, True])
def test_without_jit(context):
  op, arguments, (_, wanted) = linear()
  mesh = explicit("d", "h")
  with jax.set_mesh(mesh) if context else contextlib.nullcontext():
    got = op(**placed(mesh, arguments, {}))
  assert_close(got, wanted)
  assert specs_of(got) == [TOKENS, STATE]


def test_beside_an_auto_axis_and_under_transformations():
  op, arguments, wanted = linear("delta_rule")
  kinds = (AxisType.Explicit, AxisType.Auto)
  mesh = jax.make_mesh((2, 2), ("d", "a"), axis_types=kinds)
  specs = dict.fromkeys(arguments, P("d", None))
  on_mesh = placed(mesh, arguments, specs)
  got = jax.jit(jax.checkpoint(results(jax.jit(op))))(on_mesh)
  assert_close(got, wanted)
  assert specs_of(got[1]) == [P("d")] * 2

  @jax.jit
  def repeat(on_mesh):
    def body(state, _):
      y, state = op(**{**on_mesh, "initial_state": state})
      return state, y

    return jax.lax.scan(body, on_mesh["initial_state"], length=2)

  assert_close(repeat(on_mesh), repeat(arguments))


def test_a_batch_that_is_mapped_over():
  op, arguments, (_, wanted) = linear("delta_rule")
  mesh = explicit("d")
  on_mesh = placed(mesh, arguments, dict.fromkeys(arguments, P("d")))

  def one(arguments):
    y, state = op(**jax.tree.map(lambda x: x[None], arguments))
    return y[0], state[0]

  got = jax.jit(jax.vmap(one))(on_mesh)
  assert_close(got, wanted)
  assert specs_of(got) == [P("d")] * 2


def test_a_cut_batch_beside_a_whole_state_and_the_reverse():
  op, arguments, (_, wanted) = linear()
  mesh = explicit("d")
  whole = dict.fromkeys(arguments, P())
  for cut in ("v", "initial_state"):
    on_mesh = placed(mesh, arguments, {**whole, cut: P("d")})
    got = jax.jit(op)(**on_mesh)
    assert_close(got, wanted)
    assert specs_of(got) == [P("d")] * 2


@pytest.mark.parametrize(
  ("name", "first"), [("linear_attention", "q"), ("causal_convolution", "x")]
)
def test_a_cut_length_is_named(name, first):
  op, draw, _, _ = CASES[name]
  arguments = drawn(draw, 8)
  on_mesh = placed(explicit("d"), arguments, dict.fromkeys(arguments, P()))
  spec = NamedSharding(explicit("d"), P(None, "d"))
  on_mesh[first] = jax.device_put(arguments[first], spec)
  words = f"{name}: {first} must not have its length sharded .*'d'.*shard_map"
  with pytest.raises(ValueError, match=words):
    jax.jit(op)(**on_mesh)


def test_within_shard_map_the_batch_may_stay_explicit():
  op = functools.partial(ops.linear_attention, axis_name="s")
  arguments = drawn(CASES["linear_attention"][1], 8)
  wanted = ops.linear_attention(**arguments)
  mesh = explicit("d", "s")
  on_mesh = placed(
    mesh,
    arguments,
    {**dict.fromkeys(arguments, P("d", "s")), "initial_state": P("d")},
  )
  specs = {**dict.fromkeys(arguments, P(None, "s")), "initial_state": P()}
  with jax.set_mesh(mesh):
    got = jax.jit(
      jax.shard_map(
        lambda arguments: op(**arguments),
        in_specs=(specs,),
        out_specs=(P(None, "s"), P()),
        axis_names={"s"},
      )
    )(on_mesh)
  assert_close(got, wanted)
  assert specs_of(got) == [P("d", "s"), P("d")]


@pytest.mark.parametrize(
  "name", ["linear_attention", "make_op", "causal_convolution", "attention"]
)
def test_nothing_is_added_without_explicit_axes(name):
  """On one device, under Auto axes and in `shard_map`."""
  op, draw, _, _ = CASES[name]
  arguments = drawn(draw)

  def program(function):
    return str(jax.make_jaxpr(function)(arguments))

  def call(x):
    return op(**x)

  assert "reshard" not in program(call)
  auto = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
  with jax.set_mesh(auto):
    assert "reshard" not in program(call)
  manual = jax.shard_map(
    call, mesh=explicit("d"), in_specs=P(), out_specs=P(), check_vma=False
  )
  assert "reshard" not in program(manual)
  with jax.set_mesh(explicit("d")):
    assert "reshard" in program(call)  # So the word is the right one.
