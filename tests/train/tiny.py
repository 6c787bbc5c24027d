"""A small model and small data with the interfaces of the real ones.

Also a config file: `python -m train tests/train/tiny.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxmodels.ops.engine import checks
from train.config import AdamW, Config, Sample

VOCAB = 258


class Model(nn.Module):
  """A model of an embedding, one decaying sum over the past, and logits."""

  vocab_size: int = VOCAB
  width: int = 8
  mixers: tuple[str, ...] = ("sum", "sum")
  mixer_options: Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: {"sum": {"decay": 0.5, "num_heads": 1}}
  )
  dropout: float = 0.0
  bad_token: int = -1
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, state=None, *, segment_ids=None):
    if self.width < 1:
      raise ValueError(f"width must be positive, got {self.width}")
    x = nn.Embed(
      self.vocab_size,
      self.width,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )(tokens)
    bad = (tokens == self.bad_token)[..., None]
    x = jnp.where(bad, jnp.asarray(jnp.nan, x.dtype), x)
    checks.finite("tiny", x=x)
    if segment_ids is None:
      segment_ids = jnp.zeros_like(tokens)
    if state is None:
      state = self.init_state(tokens.shape[0])
    decay = self.param("log_decay", nn.initializers.zeros, (self.width,))
    decay = jax.nn.sigmoid(decay) * self.mixer_options["sum"]["decay"]
    before = jnp.concatenate([segment_ids[:, :1], segment_ids[:, :-1]], axis=1)
    joined = (segment_ids == before).astype(jnp.float32)[..., None]

    def step(h, inputs):
      x, joined = inputs
      h = decay[None] * joined * h + x.astype(jnp.float32)
      return h, h

    inputs = (jnp.swapaxes(x, 0, 1), jnp.swapaxes(joined, 0, 1))
    state, y = jax.lax.scan(step, state, inputs)
    y = jnp.swapaxes(y, 0, 1).astype(x.dtype) + x
    if self.dropout and self.has_rng("dropout"):
      y = nn.Dropout(self.dropout, deterministic=False)(y)
    return nn.Dense(self.vocab_size, dtype=jnp.float32)(y), state

  def init_state(self, batch_size):
    return jnp.zeros((batch_size, self.width), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Data:
  """Sums that repeat, in rows of two documents, with some weights of 0.

  Attributes:
    length: Tokens per row.
    size: Rows of the training split.
    infinite: The row whose loss is infinite; None for none.
    document: Tokens of the first document; None for half of a row.
  """

  length: int = 12
  size: int = 50
  vocab_size: int = 257
  infinite: int | None = None
  document: int | None = None

  def open(self, split):
    if self.length < 2:
      raise ValueError(f"length must be at least 2, got {self.length}")
    if split not in ("train", "validation"):
      raise ValueError(f"split must be one of train, validation, got {split}")
    return Rows(self, split)


class Rows:
  def __init__(self, data, split):
    self._data = data
    self._first = 0 if split == "train" else 10_000
    self._size = data.size if split == "train" else 11
    self._infinite = data.infinite if split == "train" else None

  @property
  def vocab_size(self):
    return self._data.vocab_size

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    length = self._data.length
    first = self._data.document or length // 2
    rng = np.random.default_rng(self._first + index)
    start, stride = rng.integers(0, 250), rng.integers(1, 4)
    row = (start + stride * np.arange(length + 1)) % 256
    weights = (rng.random(length) < 0.8).astype(np.float32)
    if index == self._infinite:
      weights[:] = np.inf
    return {
      "inputs": row[:-1].astype(np.int32),
      "targets": row[1:].astype(np.int32),
      "weights": weights,
      "segment_ids": (np.arange(length) >= first).astype(np.int32),
    }

  def encode(self, content):
    return [256, *content]

  def decode(self, tokens):
    return bytes(t for t in tokens if t < 256)


def get_config():
  return Config(
    model=Model(),
    data=Data(),
    optimizer=AdamW(learning_rate=0.01, warmup_steps=4),
    steps=12,
    batch_size=8,
    log_every=1,
    eval_every=4,
    checkpoint_every=3,
    sample=Sample(prompt="abc", length=5),
  )
