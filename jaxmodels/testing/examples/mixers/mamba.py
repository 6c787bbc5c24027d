"""Mamba."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  rms,
  silu,
  softplus,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""

  def norm(name, y):
    if layer.step_norms == "none":
      return y
    scale = p[name]["scale"] if layer.step_norms == "scaled" else 1
    return rms(y, scale, layer.norm_epsilon)

  z, u = dense(p["gate"], x), dense(p["input"], x)
  u = convolve(p["convolution"], u)
  found: dict[str, list[np.ndarray]] = {"dt": [], "B": [], "C": []}
  size = u.shape[1] // layer.heads
  for h in range(layer.heads):
    end = "" if layer.heads == 1 else f"_{h}"
    part = u[:, h * size : (h + 1) * size]
    low = norm(f"step_norm{end}", dense(p[f"step_down{end}"], part))
    found["dt"].append(dense(p[f"step_up{end}"], low))
    # One B and one C per channel.
    for name in ("B", "C"):
      y = norm(f"{name}_norm{end}", dense(p[name + end], part))
      found[name].append(np.repeat(y[:, None], size, 1))
  dt, b, c = (np.concatenate(parts, 1) for parts in found.values())
  dt = np.clip(softplus(dt + p["dt_bias"]), *layer.step_limits)
  out, memory = np.zeros(u.shape), np.zeros(p["A_log"].shape)
  for t in range(len(x)):
    a = np.exp(-np.exp(p["A_log"]) * dt[t][:, None])
    a = 2 * a - 1 if layer.negative_eigenvalues else a
    memory = a * memory + (dt[t] * u[t])[:, None] * b[t]
    out[t] = (memory * c[t]).sum(-1) + p["D"] * u[t]
  return dense(p["output"], out * silu(z))


EXAMPLES = (
  MixerExample(
    "mamba",
    "mamba",
    plain,
    {"state_width": 6, "step_rank": 3},
    equation="`h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t`",
    transition="diagonal",
    paper="Gu and Dao 2023, arXiv:2312.00752",
  ),
  MixerExample(
    "mamba_negative",
    "mamba",
    plain,
    {"expand": 1, "state_width": 4, "negative_eigenvalues": True},
  ),
  MixerExample(
    "mamba_normed",
    "mamba",
    plain,
    {
      "state_width": 5,
      "step_rank": 3,
      "inner_width": 12,
      "step_norms": "scaled",
      "use_bias": True,
      "convolution_bias": False,
      "step_limits": (0.01, 0.5),
      "norm_epsilon": 1e-3,
      "heads": 3,
    },
  ),
)
