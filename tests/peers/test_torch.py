"""Equal to PyTorch's own convolutions and attention."""

import math

import numpy as np
import pytest

from jaxmodels import ops
from tests.peers.compare import check, load, torch_peer

pytestmark = pytest.mark.slow
BATCH, LENGTH, WIDTH = 2, 75, 6


def normal(**shapes):
  rng = np.random.default_rng(0)
  return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def convolve(x, taps):
  """A cross-correlation a channel, [B, T, D] with [W, D], no padding."""
  conv1d = load("torch.nn.functional").conv1d
  y = conv1d(x.mT, taps.mT[:, None], groups=x.shape[-1])
  return y.mT


def test_causal_convolution():
  """Behind its tail; the last W - 1 inputs are the tail that leaves."""
  torch = load("torch")

  def peer(x, kernel, initial_state):
    span = torch.cat([initial_state, x], 1)
    return convolve(span, kernel), span[:, LENGTH:]

  inputs = normal(
    x=(BATCH, LENGTH, WIDTH), kernel=(4, WIDTH), initial_state=(BATCH, 3, WIDTH)
  )
  forms = "recurrent", "chunk_parallel"
  check(ops.causal_convolution, torch_peer(peer), inputs, forms=forms)


def test_long_convolution():
  """An impulse response runs against torch's taps."""
  functional = load("torch.nn.functional")

  def peer(x, kernel):
    span = functional.pad(x, (0, 0, LENGTH - 1, 0))
    return convolve(span, kernel.flip(0))

  inputs = normal(x=(BATCH, LENGTH, WIDTH), kernel=(LENGTH, WIDTH))
  check(ops.long_convolution, torch_peer(peer), inputs, forms=("",))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("groups", [1, 3])
def test_attention(packed, window, groups):
  """In torch the mask says it all; it scales by 1/sqrt(K), and heads lead."""
  torch, functional = load("torch"), load("torch.nn.functional")
  at = np.arange(LENGTH)
  mask = at[:, None] >= at
  if window:
    mask &= at[:, None] - at < window
  ids = at // 31
  if packed:
    mask &= ids[:, None] == ids

  def peer(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q * math.sqrt(q.shape[-1]), k, v))
    y = functional.scaled_dot_product_attention(
      q, k, v, torch.tensor(mask), enable_gqa=groups > 1
    )
    return y.transpose(1, 2)

  def op(**inputs):
    return ops.attention(**inputs)[0]

  inputs = normal(
    q=(BATCH, LENGTH, 2 * groups, 8),
    k=(BATCH, LENGTH, 2, 8),
    v=(BATCH, LENGTH, 2, 6),
  )
  options = {"window": window, "chunk_size": 16}
  if packed:
    options["segment_ids"] = np.broadcast_to(ids, (BATCH, LENGTH))
  check(op, torch_peer(peer), inputs, **options)
