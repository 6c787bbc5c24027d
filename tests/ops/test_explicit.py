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
from tests.ops.explicit import (
  CASES,
  IDS,
  LENGTH,
  STATE,
  TOKENS,
  assert_close,
  drawn,
  explicit,
  placed,
  results,
  specs_of,
)


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


@pytest.mark.parametrize(
  "name",
  [
    # As `dense_recurrence`, whose letters it has.
    pytest.param(x, marks=pytest.mark.slow if x == "signature" else ())
    for x in CASES
  ],
)
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
    # "recurrent" and "associative" are the others, with chunks of one token.
    pytest.param(
      name,
      method,
      marks=()
      if method.startswith("chunk") or name in LOCAL
      else pytest.mark.exhaustive,
    )
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
