"""Inputs of the cases: `(rng, batch, length) -> dict` of arrays by name."""

import math

import numpy as np

HEADS, WIDTH = 4, 64
CHANNELS = 1024  # Of the diagonal recurrences.
INNER, STATES = 256, 16  # Of the selective scan: D and N.
KERNEL, CONVOLVED = 4, 256  # Of the short convolution: taps and channels.
STEPS = 2  # Of DeltaProduct, per token.
BATCH = 16  # Tokens of a mini-batch of TTT-linear.


def qkv(rng, batch, length, heads=HEADS, width=WIDTH):
  """Normal q and v; keys k of norm 1."""
  q, k, v = rng.standard_normal((3, batch, length, heads, width))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  return {"q": q, "k": k, "v": v}


def per_head(drawn):
  """The shape of one number per head and token."""
  return drawn["q"].shape[:3]


def slow_decay(rng, shape):
  """Logs of decays that remember about ten tokens."""
  return {"log_decay": -0.1 * rng.exponential(size=shape)}


def ungated_delta(rng, batch, length, **sizes):
  """Adds beta in [0, 1]."""
  drawn = qkv(rng, batch, length, **sizes)
  return drawn | {"beta": rng.uniform(size=per_head(drawn))}


def delta(rng, batch, length, **sizes):
  """Adds a decay per head."""
  drawn = ungated_delta(rng, batch, length, **sizes)
  return drawn | slow_decay(rng, per_head(drawn))


def delta_per_key(rng, batch, length, **sizes):
  """The delta rule with one decay per key channel."""
  drawn = ungated_delta(rng, batch, length, **sizes)
  return drawn | slow_decay(rng, drawn["k"].shape)


def delta_two_gates(rng, batch, length, **sizes):
  """Erase and write gates per channel, and a decay per key channel."""
  drawn = delta_per_key(rng, batch, length, **sizes)
  beta, write = rng.uniform(size=(2, *drawn["k"].shape))
  return drawn | {"beta": beta, "write_gate": write}


def products(rng, batch, length):
  """Several keys, values and betas per token, and a decay per head."""
  drawn = delta(rng, batch, length)
  steps = qkv(rng, batch, length * STEPS)
  shape = batch, length, STEPS, HEADS
  return drawn | {
    "k": steps["k"].reshape(*shape, WIDTH),
    "v": steps["v"].reshape(*shape, WIDTH),
    "beta": rng.uniform(size=shape),
  }


def decay_per_head(rng, batch, length):
  """Linear attention with a decay per head and token."""
  drawn = qkv(rng, batch, length)
  return drawn | slow_decay(rng, per_head(drawn))


def decay_per_key(rng, batch, length):
  """Linear attention with a decay per key channel."""
  drawn = qkv(rng, batch, length)
  return drawn | slow_decay(rng, drawn["k"].shape)


def hgrn2(rng, batch, length):
  """No keys: they are 1 minus the decays."""
  drawn = decay_per_key(rng, batch, length)
  drawn.pop("k")
  return drawn


def rwkv6(rng, batch, length):
  """Adds a bonus."""
  bonus = rng.standard_normal((HEADS, WIDTH))
  return decay_per_key(rng, batch, length) | {"bonus": bonus}


def rwkv7(rng, batch, length):
  """The key that RWKV-7 forgets is -b, and gated it is a."""
  drawn = decay_per_key(rng, batch, length)
  a = qkv(rng, batch, length)["k"]
  gate = rng.uniform(size=a.shape)
  return drawn | {"a": gate * a, "b": -a}


def levels(rng, batch, length):
  """Weights of the levels of log-linear attention, and a decay per head."""
  drawn = decay_per_head(rng, batch, length)
  count = max(length - 1, 1).bit_length() + 1
  return drawn | {"scale": rng.uniform(size=(*per_head(drawn), count))}


def test_time(rng, batch, length):
  """Rates and weights of TTT-linear; q, k and v of variance 1 / K."""
  drawn = {
    name: rng.standard_normal(x.shape) / math.sqrt(WIDTH)
    for name, x in qkv(rng, batch, length).items()
  }
  return drawn | {
    "rate": rng.uniform(size=per_head(drawn)) / BATCH,
    "weight": 0.02 * rng.standard_normal((HEADS, WIDTH, WIDTH)),
    "bias": 0.02 * rng.standard_normal((HEADS, WIDTH)),
    "norm_scale": rng.uniform(0.5, 1.5, (HEADS, WIDTH)),
    "norm_bias": 0.1 * rng.standard_normal((HEADS, WIDTH)),
  }


def mamba2(rng, batch, length, groups=HEADS):
  """Draws dt before its softplus, near Mamba-2's initial 0.01."""
  x = rng.standard_normal((batch, length, HEADS, WIDTH))
  B, C = rng.standard_normal((2, batch, length, groups, WIDTH))
  dt = rng.standard_normal((batch, length, HEADS)) - 4.6
  return {"x": x, "dt": dt, "A": -np.arange(1.0, HEADS + 1), "B": B, "C": C}


def mamba3(rng, batch, length, rank=1):
  """Rotated C and B, rows of x, and the weights of the trapezoidal rule.

  `own` is lambda dt, and `other` is (1 - lambda) dt.
  """
  shape = batch, length, HEADS, rank, WIDTH
  C, B, x = rng.standard_normal((3, *shape))
  dt = np.exp(rng.uniform(math.log(1e-3), math.log(0.1), shape[:3]))
  part = rng.uniform(size=shape[:3])
  A = -rng.uniform(0.5, 8, shape[:3])
  return {
    "C": C / math.sqrt(WIDTH),
    "B": B,
    "x": x,
    "log_decay": A * dt,
    "own": part * dt,
    "other": (1 - part) * dt,
  }


def gates(rng, batch, length):
  """Adds the gates of the mLSTM."""
  i, f = rng.standard_normal((2, batch, length, HEADS))
  return qkv(rng, batch, length) | {
    "log_input_gate": i,
    "log_forget_gate": -np.logaddexp(0, -3 - f),
  }


def diagonal(rng, batch, length):
  """The initial decays of an RG-LRU."""
  shape = (batch, length, CHANNELS)
  return {"a": rng.uniform(0.9, 0.999, shape), "b": rng.standard_normal(shape)}


def complex_diagonal(rng, batch, length):
  """Eigenvalues of an LRU, one per channel; real and imaginary writes."""
  real, imaginary = rng.standard_normal((2, batch, length, CHANNELS // 2))
  return {
    "radius": rng.uniform(0.9, 0.999, CHANNELS // 2),
    "angle": rng.uniform(0, 2 * math.pi, CHANNELS // 2),
    "real": real,
    "imaginary": imaginary,
  }


def selective(rng, batch, length):
  """The inputs of Mamba, with its initial A."""
  x = rng.standard_normal((batch, length, INNER))
  B, C = rng.standard_normal((2, batch, length, STATES))
  return {
    "x": x,
    "dt": np.exp(rng.uniform(math.log(1e-3), math.log(0.1), x.shape)),
    "A": -np.tile(np.arange(1.0, STATES + 1), (INNER, 1)),
    "B": B,
    "C": C,
    "D": np.ones(INNER),
  }


def convolution(rng, batch, length):
  """Inputs and taps per channel."""
  return {
    "x": rng.standard_normal((batch, length, CONVOLVED)),
    "kernel": rng.standard_normal((KERNEL, CONVOLVED)),
  }


def mixed_decays(draw):
  """The same inputs, but each decay is exp(-20) or exp(-0.01), by chance."""

  def drawn(rng, batch, length):
    inputs = draw(rng, batch, length)
    (name,) = inputs.keys() & {"log_decay", "log_forget_gate"}
    shape = inputs[name].shape
    return inputs | {name: rng.choice([-20.0, -0.01], size=shape)}

  return drawn


def equal_keys(draw):
  """The same inputs with one key for all tokens, beta 2 and slow decays."""

  def drawn(rng, batch, length):
    inputs = draw(rng, batch, length)
    return inputs | {
      "k": np.broadcast_to(inputs["k"][:, :1], inputs["k"].shape),
      "beta": np.full_like(inputs["beta"], 2),
      "log_decay": np.full_like(inputs["log_decay"], -1e-6),
    }

  return drawn
