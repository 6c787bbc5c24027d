"""Bits per byte and bytes of language models with weights of one bit.

python -m benchmarks.examples.one_bit runs/one_bit/teacher
  runs/one_bit/student runs/one_bit/distilled

The runs are those of `configs/one_bit`. A model of one bit is evaluated with
packed weights; the table also has the largest difference of its logits from
those of the variables that were trained. A model in full precision has a second
row: its weights are binarised after training, and not trained further. The
configs have the numbers.
"""

import argparse
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxmodels.layers.one_bit import binarized, packed
from train import load
from train.config import Config
from train.data.opening import open_split
from train.evaluate import measure
from train.evaluation.cases import OWN, make_case
from train.losses import NextToken
from train.state import TrainState


def bits_per_byte(config: Config, variables: Any) -> float:
  """Bits per byte of the held-out text."""
  config = dataclasses.replace(config, loss=NextToken())
  none = np.zeros((), bool)
  state = TrainState(np.int32(0), variables["params"], {}, (), none, none)
  data = open_split(config.data, "validation")
  case = make_case(config, state, OWN, "validation", data)
  own = case.strategy.prepare(state)
  found = measure(case.strategy, own, data, case.batch_size)
  return found.values["bits_per_byte"]


def size(variables: Any, narrow: bool = False) -> int:
  """The bytes of variables; with `narrow`, numbers of 4 bytes have 2."""
  return sum(
    leaf.size * min(leaf.dtype.itemsize, 2 if narrow else math.inf)
    for leaf in jax.tree.leaves(variables)
  )


def rows(folder: str) -> Iterator[tuple[str, float, Any, float | None]]:
  """The name, bits per byte, variables, and difference of logits of models."""
  run = load(folder)
  config, variables = run.config, run.variables
  model: Any = config.model
  try:
    small = packed(variables)
  except ValueError:
    yield folder, bits_per_byte(config, variables), variables, None
    mixers = tuple(mixer.clone(one_bit=True) for mixer in model.mixers)
    model = model.clone(mixers=mixers)
    shape = jax.ShapeDtypeStruct((1, 1), np.int32)
    like = jax.eval_shape(model.init, jax.random.key(0), shape)
    config = dataclasses.replace(config, model=model)
    variables = binarized(variables, like)
    small, folder = packed(variables), f"{folder}, binarised after training"
  tokens = np.random.default_rng(0).integers(0, 256, (4, 256))
  apply = jax.jit(lambda variables: model.apply(variables, tokens)[0])
  change = float(np.abs(apply(variables) - apply(small)).max())
  yield folder, bits_per_byte(config, small), small, change


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs="+", help="directories of runs")
  titles = ("bits per byte", "bytes", "at 2 bytes", "change of logits")
  print(*(f"{title:>16}" for title in titles), " run")
  for folder in parser.parse_args().runs:
    for name, bits, variables, change in rows(folder):
      sizes = f"{size(variables):>16,} {size(variables, True):>16,}"
      text = "" if change is None else f"{change:.1e}"
      print(f"{bits:>16.3f} {sizes} {text:>16}  {name}", flush=True)


if __name__ == "__main__":
  main()
