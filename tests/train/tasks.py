"""Small tasks of every loss, as configs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxmodels.mixers import GLA
from jaxmodels.models import Classifier, LanguageModel
from tests.train import tiny
from train.config import AdamW, Config, Sample
from train.losses import Classification, Distillation, NextToken, Regression

B, L, C = 8, 12, 5


class Reader(nn.Module):
  """Real inputs to outputs; it counts, and sows a loss of its own."""

  channels: int = C
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = nn.Dense(8, name="read")(x)
    mixer = GLA(width=8, heads=2, axis_name=self.axis_name, name="mixer")
    y, state = mixer(x, state, segment_ids=segment_ids)
    self.sow("losses", "size", 0.1 * jnp.mean(jnp.square(y)))
    mean = self.variable("stats", "mean", jnp.zeros, (8,))
    if self.is_mutable_collection("stats"):
      mean.value = 0.9 * mean.value + 0.1 * jnp.mean(x, axis=(0, 1))
    # What is learned must not depend on how far the mean is synchronised.
    return nn.Dense(self.channels, name="write")(y), state


@dataclasses.dataclass(frozen=True)
class Series:
  """Noisy waves, whose frequency is the class.

  Attributes:
    kind: "class" gives targets `()`, "token" `[L, C]`, "vector" `[C]`.
  """

  kind: str = "class"
  size: int = 48

  def open(self, split):
    return Waves(self, 0 if split == "train" else 1000)


class Waves:
  sequence = ("inputs", "mask")

  def __init__(self, data, first):
    self._data, self._first = data, first
    if data.kind == "token":
      self.sequence = ("inputs", "targets", "weights")

  def __len__(self):
    return self._data.size

  def __getitem__(self, index):
    rng = np.random.default_rng(self._first + index)
    label = rng.integers(0, C)
    wave = np.sin((label + 1) * 0.5 * np.arange(L)[:, None])
    wave = np.concatenate([wave, rng.normal(size=(L, 2)) * 0.1], axis=1)
    found = {"inputs": wave.astype(np.float32)}
    if self._data.kind == "class":
      mask = np.arange(L) < rng.integers(L // 2, L + 1)
      return {**found, "targets": np.int32(label), "mask": mask}
    if self._data.kind == "vector":
      return {**found, "targets": np.full(C, label, np.float32)}
    targets = np.repeat(wave[:, :1], C, axis=1).astype(np.float32)
    weights = (rng.random(L) < 0.7).astype(np.float32)
    return {**found, "targets": targets, "weights": weights}


@dataclasses.dataclass(frozen=True)
class Taught(tiny.Data):
  """The tiny data with the logits of a teacher, `[L, V]`."""

  def open(self, split):
    return TaughtRows(self, split)


class TaughtRows(tiny.Rows):
  def __getitem__(self, index):
    found = super().__getitem__(index)
    rng = np.random.default_rng(index)
    logits = rng.normal(size=(len(found["inputs"]), tiny.VOCAB))
    return {**found, "teacher_logits": logits.astype(np.float32)}


def config_of(loss, kind, **fields):
  is_text = kind in ("tokens", "taught")
  tokens = Taught(length=L) if kind == "taught" else tiny.Data(length=L)
  model = reader_of_text(tiny.VOCAB) if is_text else Reader()
  if kind == "pooled":
    model, kind = pooled_reader(), "class"
  return Config(
    model=model,
    data=tokens if is_text else Series(kind),
    loss=loss,
    optimizer=AdamW(learning_rate=0.02, warmup_steps=2),
    steps=4,
    batch_size=B,
    log_every=1,
    eval_every=2,
    checkpoint_every=2,
    sample=Sample(length=0),
    **fields,
  )


TASKS = {
  "class mean": (Classification(), "class"),
  "class last": (Classification(pooling="last", label_smoothing=0.1), "class"),
  "class pooled": (Classification(pooling="none"), "pooled"),
  "token": (Regression(error="huber"), "token"),
  "vector": (Regression(pooling="mean"), "vector"),
  "chunks": (NextToken(chunk_size=2, z_loss=1e-3), "tokens"),
  "taught": (Distillation(temperature=2.0), "taught"),
}


def reader_of_text(vocab, width=8):
  return LanguageModel(vocab, width, 1, (("gla", {"heads": 2}),), mlp="none")


def pooled_reader():
  gla = ("gla", {"heads": 2})
  return Classifier(
    width=8,
    depth=1,
    mixers=(gla,),
    mlp="none",
    classes=C,
    input_width=3,
    pooling="attention",
  )


@functools.cache
def language(length=L, vocab=11):
  """A model, its variables, and a batch, which nobody may change."""
  model = reader_of_text(vocab)
  rng = np.random.default_rng(4)
  batch = {
    "inputs": rng.integers(0, vocab, (2, length)).astype(np.int32),
    "targets": rng.integers(0, vocab, (2, length)).astype(np.int32),
    "weights": rng.random((2, length)).astype(np.float32),
    "teacher_logits": rng.normal(size=(2, length, vocab)).astype(np.float32),
  }
  init = jax.jit(model.init)
  return model, init(jax.random.key(0), batch["inputs"]), batch
