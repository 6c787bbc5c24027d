"""Bilinear RNNs, with every form of the transition."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, rms


def plain(p, x, layer):
  """One document x [L, D], token by token, with whole matrices [N, N]."""
  h, out = p["initial"].reshape(-1), []
  for u in x:
    h = _matrix(p, u, len(h), layer) @ h
    if layer.additive:
      h = h + dense(p["input"], u)
    out.append(rms(h, p["norm"]["scale"], layer.norm_epsilon))
  return dense(p["output"], np.stack(out))


def _matrix(p, u, width, layer):
  w = dense(p["transition"], u)
  if layer.transition == "rotation":
    blocks = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in w]
    return _on_diagonal(blocks)
  if layer.transition == "factorised":
    return _unit(p["left"] @ np.diag(w) @ p["right"].T)
  if layer.transition == "diagonal":
    return _unit(np.diag(w))
  size = layer.block_width if layer.transition == "block" else width
  return _on_diagonal([_unit(a) for a in w.reshape(-1, size, size)])


def _unit(a):
  return a / np.linalg.norm(a) * np.sqrt(len(a))


def _on_diagonal(blocks):
  size = len(blocks[0])
  matrix = np.zeros((size * len(blocks),) * 2)
  for i, block in enumerate(blocks):
    matrix[size * i : size * (i + 1), size * i : size * (i + 1)] = block
  return matrix


EXAMPLES = (
  MixerExample(
    "bilinear_rnn",
    "bilinear_rnn",
    plain,
    {"block_width": 4, "state_width": 8},
    equation="`h_t = A_t h_{t-1}`, `A_t = sum_k x_{t,k} W_k`; full, "
    "factorised, blocks, rotations, or diagonal",
    transition="dense",
    paper="Ebrahimi and Memisevic 2025, arXiv:2505.21749",
  ),
  *(
    MixerExample(
      f"bilinear_rnn_{transition}",
      "bilinear_rnn",
      plain,
      {"state_width": 6, "transition": transition, **options},
    )
    for transition, options in (
      ("full", {"additive": True}),
      ("factorised", {"rank": 5}),
      ("rotation", {}),
      ("diagonal", {}),
    )
  ),
)
