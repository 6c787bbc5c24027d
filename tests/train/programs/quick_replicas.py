"""Stands in for `train.sweep.cell` where one process trains replicas.

Writes validations without training: the accuracy of a seed is a tenth of it
plus the learning rate. The mixer decides what else happens: "fails" ends with
an error, "diverges" has no validation at the highest rate.
"""

import json
import pathlib
import sys

from tests.train import tiny
from train.replicas import replicas_of

if __name__ == "__main__":
  words = sys.argv[2:]
  flags = dict(word[2:].split("=", 1) for word in words if "=" in word)
  folder = pathlib.Path(flags["workdir"])
  with (folder / "starts").open("a") as output:
    output.write("1")
  if flags["model.mixers"] == "fails":
    sys.exit("error: config.model: it fails")
  rates = [float(word) for word in words if not word.startswith("-")]
  config = tiny.get_config()
  for replica in replicas_of(config, int(flags["replicas"]), rates):
    own = folder / replica.name
    own.mkdir(exist_ok=True)
    rate, seed = replica.config.optimizer.learning_rate, replica.config.seed
    found = {"accuracy": seed / 10 + rate, "loss": 1.0}
    train = {"step": 2, "split": "train", "loss": 1.0, "compile_seconds": 3.0}
    lines = [
      {"step": 0, "split": "model", "parameters": 70, "state_bytes": 32},
      {**train, "tokens_per_second": 50.0},
      {"step": config.steps, "split": "validation", **found},
    ]
    if flags["model.mixers"] == "diverges" and rate == max(rates):
      lines.pop()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (own / "metrics.jsonl").write_text(text)
  sys.exit(int(flags["model.mixers"] == "diverges"))
