"""LSSL, S4 and S4D: a time-invariant state-space model per channel."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, gelu, sigmoid


def _run(p, x, models):
  """Each channel's model (A, B, C) token by token, GELU, and the gate."""
  out = np.zeros(x.shape)
  for d, (a, b, c) in enumerate(models):
    h = np.zeros(len(b), complex)
    for t, u in enumerate(x[:, d]):
      h = a @ h + b * u
      y = c @ h
      np.testing.assert_allclose(y.imag, 0, atol=1e-9)
      out[t, d] = y.real
  y = gelu(out + p["D"] * x)
  return dense(p["output"], y) * sigmoid(dense(p["gate"], y))


def _bilinear(a, b, step):
  """The bilinear form of h' = a h + b u."""
  identity = np.eye(len(b))
  inverse = np.linalg.inv(identity - step / 2 * a)
  return inverse @ (identity + step / 2 * a), step * inverse @ b


def _pairs(z):
  """Both numbers of each conjugate pair."""
  return np.concatenate([z, z.conj()])


def s4d(p, x, layer):
  """One document x [L, D], token by token."""

  def model(d):
    rate = -np.exp(p["log_decay_rate"][d]) + 1j * p["frequency"][d]
    rate, step = _pairs(rate), np.exp(p["log_step"][d])
    c = _pairs(p["C"][0][d] + 1j * p["C"][1][d])
    if layer.discretisation == "bilinear":
      return *_bilinear(np.diag(rate), np.ones(len(c)), step), c
    a = np.exp(rate * step)
    return np.diag(a), (a - 1) / rate, c

  return _run(p, x, map(model, range(layer.width)))


def s4(p, x, layer):
  """One document x [L, D], token by token, with the matrix in full."""

  def model(d):
    rate = -np.exp(p["log_decay_rate"][d]) + 1j * p["frequency"][d]
    a = np.diag(_pairs(rate))
    for real, imaginary in zip(*p["low_rank"], strict=True):
      column = _pairs(real[d] + 1j * imaginary[d])
      a = a - np.outer(column, column.conj())
    b, c = (_pairs(p[name][0][d] + 1j * p[name][1][d]) for name in ("B", "C"))
    return *_bilinear(a, b, np.exp(p["log_step"][d])), c

  return _run(p, x, map(model, range(layer.width)))


def lssl(p, x, layer):
  """One document x [L, D], token by token."""

  def model(d):
    step = np.exp(p["log_step"][d])
    return *_bilinear(p["A"], p["B"], step), p["C"][d]

  return _run(p, x, map(model, range(layer.width)))


EXAMPLES = (
  MixerExample(
    "s4d",
    "s4d",
    s4d,
    {"state_width": 6},
    equation="`h_t = exp(dt A) h_{t-1} + A^{-1} (exp(dt A) - I) B x_t` per "
    "channel, A diagonal",
    transition="diagonal: fixed, complex",
    paper="Gu et al. 2022, arXiv:2206.11893",
  ),
  MixerExample(
    "s4",
    "s4",
    s4,
    {"state_width": 6, "basis": "legt"},
    equation="`h_t = M (I + dt/2 A) h_{t-1} + dt M B x_t` per channel, "
    "`M = (I - dt/2 A)^-1`, `A = diag(a) - P P^H`",
    transition="diagonal plus low rank: fixed",
    paper="Gu et al. 2021, arXiv:2111.00396",
  ),
  MixerExample(
    "lssl",
    "lssl",
    lssl,
    {"state_width": 6},
    equation="`h_t = M (I + dt/2 A) h_{t-1} + dt M B x_t` per channel, "
    "`M = (I - dt/2 A)^-1`, A full",
    transition="dense: fixed",
    paper="Gu et al. 2021, arXiv:2110.13985",
  ),
)
