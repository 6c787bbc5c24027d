"""Draws of arguments for the ops, batch 2, in float64."""

import numpy as np

HEADS, KEYS, VALUES = 2, 8, 6


def qkv(rng, length):
  shape = (2, length, HEADS)
  k = rng.standard_normal((*shape, KEYS))
  return {
    "q": rng.standard_normal((*shape, KEYS)),
    "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
    "v": rng.standard_normal((*shape, VALUES)),
    "initial_state": rng.standard_normal((2, HEADS, KEYS, VALUES)),
  }


def log_decay(rng, length, *, per_key, scale=1.0):
  shape = (2, length, HEADS) + ((KEYS,) if per_key else ())
  return -scale * rng.exponential(size=shape)


def linear_attention(decay=None, bonus=False):
  def draw(rng, length):
    drawn = qkv(rng, length)
    if decay is not None:
      drawn["log_decay"] = log_decay(rng, length, per_key=decay == "key")
    if bonus:
      drawn["bonus"] = rng.standard_normal((HEADS, KEYS))
    return drawn

  return draw


def delta_rule(decay=None, gates=False):
  def draw(rng, length):
    drawn = linear_attention(decay)(rng, length)
    if gates:
      drawn["beta"] = rng.uniform(0, 1, drawn["k"].shape)
      drawn["write_gate"] = rng.uniform(0, 1, drawn["v"].shape)
    else:
      drawn["beta"] = rng.uniform(0, 2, (2, length, HEADS))
    return drawn

  return draw


def diagonal(complex_=False):
  def draw(rng, length):
    shape = (2, length, 5)
    drawn = {
      "a": rng.uniform(-1, 1, shape),
      "b": rng.standard_normal(shape),
      "initial_state": rng.standard_normal((2, 5)),
    }
    if complex_:
      drawn = {
        name: x * np.exp(1j * rng.uniform(0, 2 * np.pi, x.shape))
        for name, x in drawn.items()
      }
    return drawn

  return draw


def selective_scan(rng, length):
  width, state = 4, 3
  shape = (2, length)
  return {
    "x": rng.standard_normal((*shape, width)),
    "dt": rng.exponential(0.5, (*shape, width)),
    "A": -rng.exponential(2.0, (width, state)),
    "B": rng.standard_normal((*shape, state)),
    "C": rng.standard_normal((*shape, state)),
    "D": rng.standard_normal(width),
    "initial_state": rng.standard_normal((2, width, state)),
  }


def dplr(decay):
  def draw(rng, length):
    drawn = linear_attention(decay)(rng, length)
    shape = drawn["k"].shape
    removed = rng.standard_normal(shape)
    removed /= np.linalg.norm(removed, axis=-1, keepdims=True)
    drawn["a"] = -removed
    drawn["b"] = removed * rng.uniform(0, 1.5, shape)
    return drawn

  return draw


def dense(groups=()):
  def draw(rng, length):
    shape = (2, length, *groups, 4)
    return {
      "A": rng.standard_normal((*shape, 4)) / 2.5,
      "b": rng.standard_normal(shape),
      "initial_state": rng.standard_normal((2, *groups, 4)),
    }

  return draw


def householder(decay=None, steps=2):
  def draw(rng, length):
    drawn = linear_attention(decay)(rng, length)
    for name in ("k", "v"):
      shape = (2, length, steps, HEADS, drawn[name].shape[-1])
      drawn[name] = rng.standard_normal(shape)
    drawn["k"] /= np.linalg.norm(drawn["k"], axis=-1, keepdims=True)
    drawn["beta"] = rng.uniform(0, 2, (2, length, steps, HEADS))
    return drawn

  return draw


def normalized(gates, scale=2.0):
  """Positive keys and queries without gates; any, and mLSTM gates, with."""

  def draw(rng, length):
    drawn = qkv(rng, length)
    z = rng.standard_normal((2, HEADS, KEYS))
    m = rng.standard_normal((2, HEADS))
    if gates:
      shape = (2, length, HEADS)
      drawn["log_input_gate"] = scale * rng.standard_normal(shape)
      drawn["log_forget_gate"] = -0.3 * rng.exponential(size=shape)
    else:
      drawn["q"], drawn["k"], z = map(np.abs, (drawn["q"], drawn["k"], z))
    drawn["initial_state"] = (drawn["initial_state"], z, m)
    return drawn

  return draw
