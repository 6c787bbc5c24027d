"""Trains with both strategies on 8 devices; prints the metrics of each."""

import dataclasses
import json
import sys

from tests.train import tiny
from train.loop import run
from train.metrics import read_metrics


def main(workdir):
  for name in ("jit", "pmap"):
    config = dataclasses.replace(
      tiny.get_config(),
      strategy=name,
      steps=5,
      batch_size=16,
      accumulation=2,
    )
    run(config, f"{workdir}/{name}")
  print(json.dumps([read_metrics(f"{workdir}/{n}") for n in ("jit", "pmap")]))


if __name__ == "__main__":
  main(sys.argv[1])
