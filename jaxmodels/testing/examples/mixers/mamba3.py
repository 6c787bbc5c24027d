"""Mamba-3."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  rms,
  sigmoid,
  silu,
  softplus,
)


def _projected(p, name, x, layer, heads):
  """B or C before the rotation, [L, H, R, N]."""
  shape = len(x), layer.rank, layer.groups, layer.state_width
  scale = p[f"{name}_norm"]["scale"]
  y = rms(dense(p[name], x).reshape(shape), scale, layer.norm_epsilon)
  group = np.arange(heads) // (heads // layer.groups)
  return y[:, :, group].swapaxes(1, 2) + p[f"{name}_bias"]


def _complex(x):
  """The pairs i and i + N/2 of channels as complex numbers."""
  first, second = np.split(x, 2, -1)
  return first + 1j * second


def plain(p, x, layer):
  """One document x [L, D], token by token, with a complex state per pair.

  The state does not rotate its inputs: each pair of its channels turns by the
  phase of the token, and reads Re(conj(C) S).
  """
  width = layer.head_width
  heads = layer.expand * layer.width // width
  u, z = (
    dense(p[name], x).reshape(len(x), heads, 1, width)
    for name in ("input", "gate")
  )
  dt = softplus(dense(p["step"], x) + p["dt_bias"])
  rate = np.maximum(softplus(dense(p["rate"], x)), 1e-4)
  share = sigmoid(dense(p["trapezoid"], x))
  b, c = (_complex(_projected(p, name, x, layer, heads)) for name in "BC")
  speed = np.pi * np.tanh(dense(p["angle"], x))
  speed = np.pad(speed, ((0, 0), (0, b.shape[-1] - speed.shape[1])))
  v, gate = (u * p["mimo_x"], z * p["mimo_z"]) if layer.rank > 1 else (u, z)
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((b.shape[-1], width), complex)
    write = np.zeros_like(memory)
    for t in range(len(x)):
      phase = np.exp(-rate[t, h] * dt[t, h] + 1j * dt[t, h] * -speed[t])
      memory = phase[:, None] * (memory + (1 - share[t, h]) * dt[t, h] * write)
      write = b[t, h].T @ v[t, h]
      memory = memory + share[t, h] * dt[t, h] * write
      out[t, h] = (c[t, h].conj() @ memory).real + p["D"][h] * v[t, h]
  out = out * silu(gate)
  out = out * p["mimo_o"] if layer.rank > 1 else out
  return dense(p["output"], out.sum(2).reshape(len(x), -1))


EXAMPLES = (
  MixerExample(
    "mamba3",
    "mamba3",
    plain,
    {"expand": 1, "head_width": 8, "state_width": 6},
    equation="`S_t = a_t S_{t-1} + (1 - l_t) dt_t a_t B_{t-1} x_{t-1}^T + l_t "
    "dt_t B_t x_t^T`, B and C rotated by angles from the token",
    transition="scalar: and rotations",
    paper="Lahoti et al. 2026, arXiv:2603.15569",
  ),
  MixerExample(
    "mamba3_mimo",
    "mamba3",
    plain,
    {
      "head_width": 8,
      "state_width": 6,
      "groups": 2,
      "rank": 3,
      "rotary_fraction": 1.0,
    },
  ),
)
