"""Small mixers that ask a stack for their index, depth and shared values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

WIDTH, BATCH, LENGTH = 4, 2, 6
IDS = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 2]])


def leaky(x, decay, state, ids):
  """h_t = decay h_{t-1} + x_t in each segment, and the last h."""
  ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else jnp.asarray(ids)
  before = jnp.concatenate([jnp.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
  joined = (ids == before).astype(x.dtype)[..., None]

  y = []
  for t in range(x.shape[1]):
    state = decay * joined[:, t] * state + x[:, t]
    y.append(state)
  return jnp.stack(y, 1), state


class Fields(nn.Module):
  """The fields that a model sets, with defaults; the state is like a token."""

  width: int = 0
  output_scale: float = 1.0
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  def zero(self, x, state):
    return self.init_state(x.shape[0]) if state is None else state

  def init_state(self, batch_size):
    return jnp.zeros((batch_size, self.width))


class Leaky(Fields):
  """h_t = decay h_{t-1} + W x_t."""

  decay: float = 0.5

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = nn.Dense(self.width, use_bias=False)(x)
    return leaky(x, self.decay, self.zero(x, state), segment_ids)


class ByLayer(Fields):
  """h_t = (layer + 1) / (depth + 1) h_{t-1} + x_t."""

  def __call__(self, x, state=None, *, segment_ids=None, layer=0, depth=1):
    decay = (jnp.asarray(layer, x.dtype) + 1) / (depth + 1)
    return leaky(x, decay, self.zero(x, state), segment_ids)


class FirstValue(Fields):
  """h_t = h_{t-1} / 2 + W x_t + (W x_t of the first layer), as in RWKV-7."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None, shared):
    v = nn.Dense(self.width, use_bias=False, name="value")(x)
    first = jnp.where(shared["written"], shared["first"], v)
    y, state = leaky(v + first, 0.5, self.zero(x, state), segment_ids)
    written = jnp.ones_like(shared["written"])
    return y, state, {**shared, "first": first, "written": written}

  def init_shared(self, x, depth, param):
    return {"first": jnp.zeros_like(x), "written": jnp.zeros((), bool)}


class Bounded(Fields):
  """h_t = b h_{t-1} + x_t with b from a table of all layers, as in HGRN2."""

  def __call__(self, x, state=None, *, segment_ids=None, layer, shared):
    bound = shared["bounds"][layer]
    y, state = leaky(x, bound[None], self.zero(x, state), segment_ids)
    return y, state, shared

  def init_shared(self, x, depth, param):
    init = nn.initializers.normal(1.0)
    logits = param("bounds", init, (depth, self.width))
    return {"bounds": jnp.cumsum(jax.nn.softmax(logits, 0), 0)}


class TokenShift(Fields):
  """A channel mixer with a state: W (x_t - x_{t-1}), similar to RWKV's."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    state = self.zero(x, state)
    before = jnp.concatenate([state[:, None], x[:, :-1]], 1)
    if segment_ids is not None:
      ids = jnp.asarray(segment_ids)
      last = jnp.concatenate([jnp.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
      before = before * (ids == last).astype(x.dtype)[..., None]
    y = nn.Dense(self.width, use_bias=False)(x - before)
    return y, x[:, -1]


def restacked(params, period):
  """Stacks the parameters of an unrolled stack, as in a scanned stack."""
  layers = sorted(k for k in params if k.startswith("layer_"))
  rounds = {
    f"block_{j}": jax.tree.map(
      lambda *leaves: jnp.stack(leaves), *(params[k] for k in layers[j::period])
    )
    for j in range(period)
  }
  rest = {k: v for k, v in params.items() if k not in layers}
  return {**rest, "repeats": rounds}
