"""Draws of arguments for the ops: `(rng, sizes) -> arguments`, in float64."""

from typing import Any

import numpy as np

from jaxmodels.testing.examples.example import Draw, Sizes

Drawn = dict[str, Any]


def _keys(sizes: Sizes, *more: int) -> tuple[int, ...]:
  return (sizes.batch, sizes.length, *more, sizes.heads, sizes.width)


def _unit(x: np.ndarray) -> np.ndarray:
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def qkv(rng: np.random.Generator, sizes: Sizes) -> Drawn:
  """q, keys of norm 1, v and a state [B, H, K, V]."""
  shape = _keys(sizes)
  k = rng.standard_normal(shape)
  state = (sizes.batch, *shape[-2:], sizes.value_width)
  return {
    "q": rng.standard_normal(shape),
    "k": _unit(k),
    "v": rng.standard_normal((*shape[:-1], sizes.value_width)),
    "initial_state": rng.standard_normal(state),
  }


def log_decay(
  rng: np.random.Generator, sizes: Sizes, *, per_key: bool
) -> np.ndarray:
  """Log decays, one per head or one per key channel."""
  shape = _keys(sizes) if per_key else _keys(sizes)[:-1]
  return -sizes.decay * rng.exponential(size=shape)


def linear_attention(
  decay: str | None = None, bonus: bool = False, signed: bool = False
) -> Draw:
  """Arguments of linear attention, a decay per "head", "key" or "value"."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    drawn = qkv(rng, sizes)
    if decay == "value":
      drawn_decay = rng.exponential(size=drawn["v"].shape)
      drawn["value_log_decay"] = -sizes.decay * drawn_decay
    elif decay is not None:
      drawn["log_decay"] = log_decay(rng, sizes, per_key=decay == "key")
    if bonus:
      drawn["bonus"] = rng.standard_normal((sizes.heads, sizes.width))
    if signed:
      drawn["decay_sign"] = rng.choice([-1.0, 1.0], drawn["log_decay"].shape)
    return drawn

  return draw


def delta_rule(decay: str | None = None, gates: bool = False) -> Draw:
  """Arguments of the delta rule; gates erase and write per channel."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    drawn = linear_attention(decay)(rng, sizes)
    if gates:
      drawn["beta"] = rng.uniform(0, 1, drawn["k"].shape)
      drawn["write_gate"] = rng.uniform(0, 1, drawn["v"].shape)
    else:
      drawn["beta"] = rng.uniform(0, sizes.beta, drawn["k"].shape[:-1])
    return drawn

  return draw


def log_linear(decay: str, delta: bool = False) -> Draw:
  """Arguments of log-linear attention with 3 levels, so that the last fills."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    drawn = (delta_rule if delta else linear_attention)(decay)(rng, sizes)
    shape, levels = _keys(sizes)[:-1], 3
    drawn["scale"] = rng.uniform(0, 2, (*shape, levels + 1))
    state = drawn["initial_state"].shape
    state = (*state[:2], levels, *state[2:])
    drawn["initial_state"] = rng.standard_normal(state)
    return drawn

  return draw


def mesa(rng: np.random.Generator, sizes: Sizes) -> Drawn:
  """Arguments of the Mesa layer, from a state that tokens can have written."""
  drawn = delta_rule("head")(rng, sizes)
  G, k = drawn["initial_state"], rng.standard_normal(_keys(sizes))[:, :1, :, :]
  H = k[:, 0, :, :, None] * k[:, 0, :, None, :] / sizes.width
  return drawn | {"initial_state": (H, G)}


def ttt(rng: np.random.Generator, sizes: Sizes) -> Drawn:
  """Arguments of TTT-linear, from a state after 3 tokens of a mini-batch."""
  drawn = qkv(rng, sizes)
  parameter = drawn["initial_state"].shape[1:]
  steps = (rng.standard_normal(drawn["initial_state"].shape) for _ in "12")
  count = np.full((sizes.batch, sizes.heads), 3.0)
  return drawn | {
    "rate": rng.uniform(0, 0.5, drawn["k"].shape[:-1]),
    "weight": rng.standard_normal(parameter),
    "norm_scale": rng.uniform(0.5, 1.5, (parameter[0], parameter[2])),
    "norm_bias": rng.standard_normal((parameter[0], parameter[2])),
    "initial_state": (*(0.3 * step for step in steps), count),
  }


def diagonal(complex_: bool = False) -> Draw:
  """Arguments of the diagonal recurrence: decays of any sign or phase."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    shape = (sizes.batch, sizes.length, sizes.channels)
    drawn = {
      "a": rng.uniform(-1, 1, shape),
      "b": rng.standard_normal(shape),
      "initial_state": rng.standard_normal((shape[0], shape[2])),
    }
    if complex_:
      drawn = {
        name: x * np.exp(1j * rng.uniform(0, 2 * np.pi, x.shape))
        for name, x in drawn.items()
      }
    return drawn

  return draw


def running_sum(rng: np.random.Generator, sizes: Sizes) -> Drawn:
  """Arguments of the diagonal recurrence without a."""
  drawn = diagonal()(rng, sizes)
  return {name: x for name, x in drawn.items() if name != "a"}


def selective_scan(rng: np.random.Generator, sizes: Sizes) -> Drawn:
  """Arguments of the selective scan, with H K channels of N elements."""
  shape = (sizes.batch, sizes.length)
  width, state = sizes.channels, sizes.small
  return {
    "x": rng.standard_normal((*shape, width)),
    "dt": rng.exponential(0.5 * sizes.decay, (*shape, width)),
    "A": -rng.exponential(2.0, (width, state)),
    "B": rng.standard_normal((*shape, state)),
    "C": rng.standard_normal((*shape, state)),
    "D": rng.standard_normal(width),
    "initial_state": rng.standard_normal((sizes.batch, width, state)),
  }


def state_space(diagonal: bool = False) -> Draw:
  """Arguments of the state-space model: real matrices or complex diagonals."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    width, state = sizes.channels, sizes.small
    shape = (width, state)

    def normal(*shape):
      real = rng.standard_normal(shape)
      return real + 1j * rng.standard_normal(shape) if diagonal else real

    a = rng.standard_normal((*shape, state)) / (1.25 * np.sqrt(state))
    if diagonal:
      phases = rng.uniform(-np.pi, np.pi, shape)
      a = np.exp(-rng.exponential(0.3 * sizes.decay, shape) + 1j * phases)
    return {
      "x": rng.standard_normal((sizes.batch, sizes.length, width)),
      "A": a,
      "B": normal(*shape),
      "C": normal(*shape),
      "initial_state": normal(sizes.batch, *shape),
    }

  return draw


def dplr(decay: str | None) -> Draw:
  """Arguments of the DPLR recurrence: a removes what b reads."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    drawn = linear_attention(decay)(rng, sizes)
    removed = _unit(rng.standard_normal(drawn["k"].shape))
    drawn["a"] = -removed
    drawn["b"] = removed * rng.uniform(0, 1.5, removed.shape)
    return drawn

  return draw


def dense(blocks: bool = False) -> Draw:
  """Arguments of the dense recurrence, with one or H blocks of width N."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    groups, width = (sizes.heads,) if blocks else (), sizes.small
    shape = (sizes.batch, sizes.length, *groups, width)
    return {
      "A": rng.standard_normal((*shape, width)) / (1.25 * np.sqrt(width)),
      "b": rng.standard_normal(shape),
      "initial_state": rng.standard_normal((sizes.batch, *groups, width)),
    }

  return draw


def signature(rng: np.random.Generator, sizes: Sizes) -> Drawn:
  """Increments of a path of N / 2 channels, and a state of 3 levels."""
  width = sizes.small // 2
  state = sizes.batch, width + width**2 + width**3
  return {
    "dx": rng.standard_normal((sizes.batch, sizes.length, width)) / 2,
    "initial_state": rng.standard_normal(state),
  }


def householder(decay: str | None = None) -> Draw:
  """Arguments of the Householder products, with M steps per token."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    drawn = linear_attention(decay)(rng, sizes)
    keys = _keys(sizes, sizes.steps)
    drawn["k"] = _unit(rng.standard_normal(keys))
    drawn["v"] = rng.standard_normal((*keys[:-1], sizes.value_width))
    drawn["beta"] = rng.uniform(0, sizes.beta, keys[:-1])
    return drawn

  return draw


def normalized(gates: bool, scale: float = 2.0, bonus: bool = False) -> Draw:
  """Positive keys and queries without gates; any, and mLSTM gates, with."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    drawn = qkv(rng, sizes)
    z = rng.standard_normal((sizes.batch, sizes.heads, sizes.width))
    m = rng.standard_normal((sizes.batch, sizes.heads))
    if gates:
      shape = _keys(sizes)[:-1]
      drawn["log_input_gate"] = scale * rng.standard_normal(shape)
      drawn["log_forget_gate"] = (
        -0.3 * sizes.decay * rng.exponential(size=shape)
      )
    else:
      drawn["q"], drawn["k"], z = map(np.abs, (drawn["q"], drawn["k"], z))
    if bonus:
      drawn["log_bonus"] = rng.standard_normal(sizes.heads)
    drawn["initial_state"] = (drawn["initial_state"], z, m)
    return drawn

  return draw


def stateless(draw: Draw) -> Draw:
  """The same without an initial state."""

  def drawn(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    arguments = draw(rng, sizes)
    del arguments["initial_state"]
    return arguments

  return drawn


def convolution(taps: int) -> Draw:
  """Arguments of a convolution over H K channels."""

  def draw(rng: np.random.Generator, sizes: Sizes) -> Drawn:
    shape = (sizes.batch, sizes.length, sizes.channels)
    return {
      "x": rng.standard_normal(shape),
      "kernel": rng.standard_normal((taps, sizes.channels)),
    }

  return draw


def kalman(rng: np.random.Generator, sizes: Sizes) -> Drawn:
  """Arguments of the Kalman scans: 4 state elements, 2 observed."""
  noise = (
    np.eye(4) + 0.1 * np.diag(np.ones(3), 1) + 0.1 * np.diag(np.ones(3), -1)
  )
  return {
    "y": rng.standard_normal((sizes.batch, sizes.length, 2)),
    "F": 0.9 * np.linalg.qr(rng.standard_normal((4, 4)))[0],
    "Q": 0.1 * noise,
    "H": rng.standard_normal((2, 4)),
    "R": np.eye(2),
    "mean": np.zeros(4),
    "covariance": np.eye(4),
  }
