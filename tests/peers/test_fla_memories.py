"""Equal to fla-core's plain PyTorch of two gates, log-linear, Mesa and TTT."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops.log_linear import levels_of
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples import OPS, Sizes
from tests.ops import draws
from tests.peers.compare import check, drawn, load, torch_peer

pytestmark = pytest.mark.slow
MINI_BATCH = 8


def test_delta_rule_with_two_gates():
  fla = load("fla.ops.gdn2.naive")

  def peer(q, k, v, beta, log_decay, write_gate, initial_state):
    return fla.naive_recurrent_gdn2(
      q, k, v, log_decay, beta, write_gate, 1.0, initial_state, True
    )

  inputs = drawn(draws.delta_rule("key", gates=True))
  check(ops.delta_rule, torch_peer(peer), inputs)


def test_log_linear_attention():
  """fla's masks of levels are those of a whole sequence from its start."""
  fla = load("fla.ops.log_linear_attn.naive")

  def peer(q, k, v, scale, log_decay):
    return fla.naive_log_linear_attn(q, k, v, log_decay, scale)

  def op(**inputs):
    return ops.log_linear_attention(**inputs)[0]

  op.__name__ = "log_linear_attention"
  length = 75
  given = OPS["log_linear_attention"].arguments(length, sizes=Sizes(decay=0.1))
  del given["initial_state"]
  levels = levels_of(length)
  rng = np.random.default_rng(1)
  given["scale"] = rng.uniform(0, 2, (2, length, 2, levels + 1))
  check(op, torch_peer(peer), given)


def test_mesa():
  """fla takes the regularisation as an argument: it is 1 here."""
  torch, fla = load("torch"), load("fla.ops.mesa_net.naive")

  def peer(q, k, v, beta, log_decay, initial_state):
    ridge = torch.ones(k.shape[2:])
    y, H, G = fla.naive_mesa_net_exact(
      q, k, v, log_decay, ridge, beta, *initial_state
    )
    return y, H, G

  inputs = OPS["mesa"].arguments(40, sizes=Sizes(values=Sizes.width))
  check(ops.mesa, torch_peer(peer), inputs)


def ttt_inputs():
  """Of whole mini-batches; fla reads one rate per mini-batch."""
  given = draws.ttt(np.random.default_rng(0), 4 * MINI_BATCH)
  given = {name: np.float32(given[name]) for name in ("q", "k", "weight")}
  rng = np.random.default_rng(1)
  shape = given["k"].shape
  parameter = {"norm_scale": rng.uniform(0.5, 1.5, shape[2:])}
  parameter["norm_bias"] = rng.standard_normal(shape[2:])
  given |= {name: np.float32(x) for name, x in parameter.items()}
  weight = rng.standard_normal((shape[2], shape[3], shape[3]))
  target = rng.standard_normal(shape)
  return given | {"v": np.float32(target), "weight": np.float32(0.3 * weight)}


RATE = 0.05


def ttt(q, k, v, weight, norm_scale, norm_bias, **options):
  """The op as fla calls it: a bias that starts at 0, and residuals."""

  def with_one(x):
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)

  start = jnp.concatenate([weight, jnp.zeros_like(weight[:, :1])], 1)
  return ops.ttt_linear(
    with_one(q),
    with_one(k),
    v - k,
    jnp.full_like(q[..., 0], RATE),
    start,
    norm_scale=norm_scale,
    norm_bias=norm_bias,
    mini_batch=MINI_BATCH,
    **options,
  )


def ttt_peer(q, k, v, weight, norm_scale, norm_bias):
  fla = load("fla.ops.ttt.naive")
  start = weight[None].expand(q.shape[0], *weight.shape)
  return fla.chunk_ttt_linear_ref(
    q, k, v, norm_scale, norm_bias, RATE, 1.0, 1e-6, MINI_BATCH, start,
    output_final_state=True,
  )  # fmt: skip


def test_the_memory_of_ttt_linear():
  """The final weights and biases, and their gradients by all inputs."""

  def op(weight, **inputs):
    _, state = ttt(weight=weight, **inputs)
    return weight[None] + state.weight[:, :, :-1], state.weight[:, :, -1:]

  op.__name__ = "ttt_linear"

  def peer(**inputs):
    return ttt_peer(**inputs)[1:]

  inputs = ttt_inputs()
  del inputs["q"]  # It has no part in the memory.

  def without_q(function):
    def call(**given):
      return function(q=0 * given["k"], **given)

    return call

  own = without_q(op)
  own.__name__ = "ttt_linear"
  check(
    own, torch_peer(without_q(peer)), inputs, forms=("recurrent", "chunked")
  )


def test_what_ttt_linear_reads():
  """fla adds W^T q to its normed value, where the paper adds q."""
  torch, inputs = load("torch"), ttt_inputs()
  y, _ = ttt(**{name: jnp.asarray(x) for name, x in inputs.items()})
  theirs = ttt_peer(**{name: torch.tensor(x) for name, x in inputs.items()})[0]
  recalled = theirs.numpy() - np.asarray(y)
  centred = recalled - recalled.mean(-1, keepdims=True)
  normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  wanted = normed * inputs["norm_scale"] + inputs["norm_bias"]
  assert relative_error(y, wanted) < 1e-4
