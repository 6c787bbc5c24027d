"""Normalised linear attention: the stabiliser changes nothing but the range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxmodels import ops
from jaxmodels.analysis import flops
from jaxmodels.ops import reference
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.testing import relative_error
from tests.ops import draws
from tests.ops.compiled import compiled

LENGTH = 21


def drawn(gates=True, length=LENGTH, dtype=np.float32):
  arguments = draws.normalized(gates)(np.random.default_rng(0), length)
  return jax.tree.map(dtype, arguments)


def unstabilised(q, k, v, log_input_gate, log_forget_gate, initial_state):
  """The equation of the mLSTM, with its gates as they are, in numpy."""
  S, z, m = initial_state
  S, z = S * np.exp(m)[..., None, None], z * np.exp(m)[..., None]
  outputs = []
  for t in range(q.shape[1]):
    f, i = np.exp(log_forget_gate[:, t]), np.exp(log_input_gate[:, t])
    kv = k[:, t, :, :, None] * v[:, t, :, None, :]
    S = f[..., None, None] * S + i[..., None, None] * kv
    z = f[..., None] * z + i[..., None] * k[:, t]
    read = np.einsum("bhk,bhkv->bhv", q[:, t], S)
    norm = np.abs(np.einsum("bhk,bhk->bh", q[:, t], z))
    outputs.append(read / np.maximum(norm, 1)[..., None])
  return np.stack(outputs, 1), S, z


@pytest.mark.parametrize("method", ["recurrent", "chunked", "chunk_parallel"])
def test_is_the_unstabilised_formula(method):
  with jax.enable_x64(True):
    arguments = drawn(dtype=np.float64)
    y, (S, z, m) = compiled("normalized_linear_attention")(
      **arguments, method=method, chunk_size=8
    )
    S, z = S * jnp.exp(m)[..., None, None], z * jnp.exp(m)[..., None]
  wanted = unstabilised(**arguments)
  for got, truth in zip((y, S, z), wanted, strict=True):
    assert relative_error(got, truth) < 1e-12


def test_without_gates_it_is_the_row_normalised_product():
  arguments = drawn(gates=False)
  del arguments["initial_state"]
  y, _ = compiled("normalized_linear_attention")(**arguments)
  scores = np.einsum("bihk,bjhk->bhij", arguments["q"], arguments["k"])
  scores = scores * np.tri(LENGTH)
  scores = scores / scores.sum(-1, keepdims=True)
  wanted = np.einsum("bhij,bjhv->bihv", scores, arguments["v"])
  assert relative_error(y, wanted) < 2e-6


@pytest.mark.parametrize(
  "method",
  [
    pytest.param("recurrent", marks=pytest.mark.slow),
    "chunked",
    pytest.param("chunk_parallel", marks=pytest.mark.slow),
  ],
)
def test_input_gates_of_any_size(method):
  """e^+-80, and zero: finite with gradients, and right."""
  arguments = drawn(length=70)
  # Positive, for a sum of e^80 of mixed signs has no digits to compare.
  arguments["q"], arguments["k"] = map(np.abs, (arguments["q"], arguments["k"]))
  state = arguments["initial_state"]
  arguments["initial_state"] = (state[0], np.abs(state[1]), state[2])
  rng = np.random.default_rng(1)
  gate = rng.choice([-80.0, 80.0], arguments["log_input_gate"].shape)
  gate[:, :20] = -80
  gate[:, 9] = -np.inf
  gate[:, 50:] = -80
  arguments["log_input_gate"] = gate.astype(np.float32)
  arguments["log_forget_gate"][:, 50::5] = -60

  def results(op, arguments):
    outputs, pull_back = jax.vjp(lambda a: op(**a), arguments)
    return outputs, pull_back(jax.tree.map(jnp.ones_like, outputs))[0]

  op = functools.partial(ops.normalized_linear_attention, method=method)
  (y, state), gradients = jax.jit(functools.partial(results, op))(arguments)
  with jax.enable_x64(True):
    exact = jax.tree.map(np.float64, arguments)
    wanted, wanted_state = reference.normalized_linear_attention(**exact)
  assert relative_error(y, wanted) < 2e-5
  for got, truth in zip(state, wanted_state, strict=True):
    assert relative_error(got, truth) < 2e-5
  for gradient in jax.tree.leaves(gradients):
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
  "at", [*(pytest.param(at, marks=pytest.mark.slow) for at in (1, 8)), 11]
)
def test_cut_and_continue(at):
  arguments = drawn()
  state = arguments.pop("initial_state")
  ids = jnp.cumsum(jnp.zeros((2, LENGTH), jnp.int32).at[:, 10].set(1), axis=1)
  run = jax.jit(
    functools.partial(ops.normalized_linear_attention, chunk_size=8)
  )
  y, last = run(**arguments, initial_state=state, segment_ids=ids)
  before, after = (
    {k: x[:, part] for k, x in arguments.items()}
    for part in (slice(at), slice(at, None))
  )
  y1, middle = run(**before, initial_state=state, segment_ids=ids[:, :at])
  y2, end = run(
    **after,
    initial_state=middle,
    segment_ids=ids[:, at:] - ids[:, at - 1 : at],
  )
  assert relative_error(jnp.concatenate([y1, y2], 1), y) < 1e-6
  for got, wanted in zip(end, last, strict=True):
    assert relative_error(got, wanted) < 1e-6


@pytest.mark.slow
def test_packed_reverse_dtypes_and_no_tokens():
  arguments = drawn()
  state = arguments.pop("initial_state")
  run = ops.normalized_linear_attention
  ids = jnp.zeros((2, LENGTH), jnp.int32).at[:, 6:].set(2)
  packed, last = run(**arguments, segment_ids=ids, reverse=True)
  y, alone = run(**{k: x[:, :6] for k, x in arguments.items()}, reverse=True)
  assert relative_error(packed[:, :6], y) < 1e-6
  for got, wanted in zip(last, alone, strict=True):
    assert relative_error(got, wanted) < 1e-6
  narrow = {k: x.astype(jnp.bfloat16) for k, x in arguments.items()}
  y, last = run(**narrow)
  assert (y.dtype, last.S.dtype) == (jnp.bfloat16, jnp.float32)
  y, last = run(
    **{k: x[:, :0] for k, x in arguments.items()}, initial_state=state
  )
  assert y.shape[1] == 0
  for got, wanted in zip(last, state, strict=True):
    np.testing.assert_array_equal(got, wanted)


def test_wrong_arguments_are_named():
  arguments = drawn()
  state = arguments["initial_state"]
  for name, wrong, words in [
    ("q", arguments["q"][:, :-1], "q must be"),
    ("log_input_gate", arguments["q"], "log_input_gate must be"),
    ("log_forget_gate", arguments["q"], "log_forget_gate must be"),
    ("initial_state", (state[0], state[0], state[2]), r"initial_state\.z"),
    ("floor", 0.0, "floor must be above 0"),
  ]:
    with pytest.raises(ValueError, match=words):
      ops.normalized_linear_attention(**{**arguments, name: wrong})


FORMS = ("recurrent", "associative", "chunked", "chunk_parallel")


@functools.cache
def squares(method, floor):
  """y and all gradients of the sum of its squares."""
  op = reference.normalized_linear_attention
  if method is not None:
    options = {"method": method, "chunk_size": 8}
    op = functools.partial(ops.normalized_linear_attention, **options)

  def loss(arguments):
    y, _ = op(**arguments, floor=floor)
    return jnp.sum(y**2), y

  @jax.jit
  def results(arguments):
    slopes, y = jax.grad(loss, has_aux=True)(arguments)
    return {"y": y, **slopes}

  return results


@pytest.mark.parametrize("floor", [None, 1e-20])
@pytest.mark.parametrize(
  "method",
  [
    "recurrent",
    pytest.param("associative", marks=pytest.mark.slow),
    "chunked",
    pytest.param("chunk_parallel", marks=pytest.mark.slow),
  ],
)
def test_gradients_where_the_denominator_has_no_square(method, floor):
  """e^-44 is a number of float32 and its square is not; nor is 1e-40."""
  rng = np.random.default_rng(0)
  q, k, v = np.abs(rng.standard_normal((3, 1, 20, 2, 4)))
  for gate in (44.0, 80.0, 50.0, 0.0, -20.0):
    for forget in (-0.1, -np.inf):
      for zero in (False, True):
        drawn = {"q": q.copy(), "k": k, "v": v}
        drawn["log_input_gate"] = np.full((1, 20, 2), gate)
        drawn["log_forget_gate"] = np.full((1, 20, 2), -0.1)
        drawn["log_forget_gate"][:, 9] = forget
        drawn["q"][:, 7] *= not zero
        drawn = jax.tree.map(np.float32, drawn)
        got = squares(method, floor)(drawn)
        with jax.enable_x64(True):
          exact = jax.tree.map(np.float64, drawn)
          wanted = squares(None, floor)(exact)
        for name, value in got.items():
          error = relative_error(value, wanted[name])
          assert error < 2e-5, (gate, forget, zero, name, error)


def by_logarithms(q, k, v, log_input_gate, log_forget_gate):
  """y for a floor of no weight, in numpy, from weights over the largest."""
  outputs = np.zeros(v.shape)
  for b, t, h in np.ndindex(q.shape[:3]):
    logs = np.array(log_input_gate[b, : t + 1, h], float)
    for j in range(t + 1):
      logs[j] += log_forget_gate[b, j + 1 : t + 1, h].sum()
    weights = np.exp(logs - logs.max()) * (k[b, : t + 1, h] @ q[b, t, h])
    outputs[b, t, h] = weights @ v[b, : t + 1, h] / weights.sum()
  return outputs


@pytest.mark.parametrize("method", FORMS)
def test_forget_gates_behind_input_gates_of_any_size(method):
  """A gate of 0 forgets; any other keeps what it says.

  All gates are eighths, for which float32 has room beside 1e6.
  """
  rng = np.random.default_rng(0)
  drawn = dict(
    zip("qkv", np.abs(rng.standard_normal((3, 1, 20, 1, 4))), strict=True)
  )
  i = np.round(8 * rng.standard_normal((1, 20, 1))) / 8
  f = np.full((1, 20, 1), -0.125)
  i[:, 2], f[:, 5] = 2e4, -np.inf  # Forgotten.
  i[:, 6], f[:, 8], i[:, 9] = 3e4, -2.9e4, 1e3  # As much as what follows.
  f[:, 10] = -np.inf
  i[:, 12], f[:, 15], i[:, 16] = 1e6, -1e6, 0.5
  drawn |= {"log_input_gate": i, "log_forget_gate": f}
  drawn = jax.tree.map(np.float32, drawn)
  y = squares(method, 1e-30)(drawn)
  assert relative_error(y["y"], by_logarithms(**drawn)) < 2e-5
  for value in y.values():
    assert np.isfinite(value).all()


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_one_channel_needs_no_scores(platform):
  """Scores would take over a hundred flops per token and channel."""
  like = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  x, gate = like((2, 256, 16, 1)), like((2, 256, 16))
  with trace_for(platform):
    counted = flops.count(ops.normalized_linear_attention, x, x, x, gate, gate)
  assert 10 < counted.total / gate.size < 100


def test_one_channel_of_any_length_is_exported_for_a_tpu():
  batch, length = export.symbolic_shape("b, l")
  x = jax.ShapeDtypeStruct((batch, length, 4, 1), jnp.float32)
  with trace_for("tpu"):
    y, _ = jax.eval_shape(ops.normalized_linear_attention, x, x, x)
  assert y.shape == x.shape
