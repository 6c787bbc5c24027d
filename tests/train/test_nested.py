"""Batches whose entries are dictionaries and tuples of arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmodels.mixers import GLA
from train.config import SGD, Config, Mesh, Sample
from train.data import Batches, digest
from train.data.dataset import arrays_by_path, sequence_arrays, sequence_length
from train.data.prefetch import ReadAhead
from train.loop import run
from train.losses.base import is_sequence
from train.metrics import read_metrics

B, L, V = 8, 16, 7
SEQUENCE = ("inputs/rest/0", "inputs/tokens", "targets", "weights")


@dataclasses.dataclass(frozen=True)
class Signals:
  """Tokens, two series of the same length, and three numbers per example.

  Attributes:
    kind: "dict" or "tuple", what the inputs are.
    threads: Threads that read.
  """

  kind: str = "dict"
  threads: int = 2

  def open(self, split):
    return Rows(self, 0 if split == "train" else 100)


class Rows:
  def __init__(self, data, first):
    self._data, self._first = data, first
    self.threads = data.threads

  def __len__(self):
    return 20

  def __getitem__(self, index):
    rng = np.random.default_rng(self._first + index)
    tokens = rng.integers(0, V, L).astype(np.int32)
    rest = (
      rng.normal(size=(L, 2)).astype(np.float32),
      rng.normal(size=3).astype(np.float32),
    )
    inputs = {"tokens": tokens, "rest": rest}
    return {
      "inputs": inputs if self._data.kind == "dict" else (tokens, rest),
      "targets": (tokens + (rest[0][:, 0] > 0)).astype(np.int32) % V,
      "weights": (rng.random(L) < 0.8).astype(np.float32),
    }


class Fused(nn.Module):
  """Reads all of the inputs."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs, state=None, *, segment_ids=None):
    if isinstance(inputs, dict):
      tokens, (values, level) = inputs["tokens"], inputs["rest"]
    else:
      tokens, (values, level) = inputs
    x = nn.Embed(V, 8, name="tokens")(tokens) + nn.Dense(8, name="values")(
      values
    )
    x += nn.Dense(8, name="level")(level)[:, None]
    mixer = GLA(width=8, heads=2, axis_name=self.axis_name, name="mixer")
    y, state = mixer(x, state, segment_ids=segment_ids)
    return nn.Dense(V, name="out")(x + y), state


@pytest.mark.slow
def test_a_run_reads_nested_batches_on_every_mesh(tmp_path):
  def metrics(name, kind, **fields):
    config = Config(
      model=Fused(),
      data=Signals(kind),
      # Adam would enlarge the rounding of small gradients.
      optimizer=SGD(learning_rate=0.1, warmup_steps=0),
      steps=2,
      batch_size=B,
      log_every=1,
      sample=Sample(length=0),
      **fields,
    )
    workdir = str(tmp_path / name)
    run(config, workdir)
    return [
      {k: v for k, v in line.items() if "second" not in k}
      for line in read_metrics(workdir)
    ]

  one = metrics("one", "dict")
  first = next(line for line in one if line["split"] == "train")
  assert first["tokens"] == B * L
  mesh = Mesh(data=2, fsdp=2, sequence=2)
  for found in (
    metrics("pmap", "tuple", strategy="pmap"),
    metrics("mesh", "tuple", mesh=mesh, accumulation=2),
  ):
    assert len(found) == len(one) == 4
    for line, expected in zip(found, one, strict=True):
      assert line.pop("split") == dict(expected)["split"]
      wanted = {k: v for k, v in expected.items() if k != "split"}
      assert line == pytest.approx(wanted, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_nested_examples_are_stacked_and_digested(kind):
  rows = Signals(kind).open("train")
  one = rows[0]
  names = SEQUENCE
  if kind == "tuple":
    names = ("inputs/0", "inputs/1/0", "targets", "weights")
  assert sorted(sequence_arrays(rows, one)) == sorted(names)
  assert sequence_length(rows, one) == L
  with ReadAhead(Batches(rows, 6, seed=1)) as ahead:
    for found, _ in zip(Batches(rows, 6, seed=1), range(5), strict=False):
      read = next(ahead)
      for a, b in zip(*map(jax.tree.leaves, (found, read)), strict=True):
        np.testing.assert_array_equal(a, b)
  shapes = {k: x.shape for k, x in arrays_by_path(found).items()}
  assert shapes[names[0] if kind == "tuple" else names[1]] == (6, L)
  assert len(shapes) == 5
  assert digest(rows) == digest(Signals(kind).open("train"))
  assert digest(rows) != digest(Signals(kind).open("validation"))


def test_a_name_stands_for_all_arrays_in_it():
  array = jnp.zeros((2, 3))
  assert is_sequence("inputs/rest/0", array, ("inputs",))
  assert is_sequence("inputs/rest/0", array, ("inputs/rest",))
  assert not is_sequence("inputs/rest/0", array, ("inputs/res", "rest"))
  assert not is_sequence("inputs", array, ("inputs/rest",))
  assert is_sequence("inputs/rest/0", array, None)
  assert not is_sequence("inputs/rest/1", array[:, 0], None)
