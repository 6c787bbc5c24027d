"""Stands in for `train.sweep.cell` where one process trains replicas.

Writes validations without training: the accuracy of a seed is a tenth of it
plus the learning rate. The mixer decides what else happens: "fails" ends with
an error, "diverges" has no validation at the highest rate.
"""

import json
import pathlib
import sys

# Steps of `tests/train/tiny.py`, whose import takes seconds.
STEPS = 12

if __name__ == "__main__":
  words = sys.argv[2:]
  flags = dict(word[2:].split("=", 1) for word in words if "=" in word)
  folder = pathlib.Path(flags["workdir"])
  with (folder / "starts").open("a") as output:
    output.write("1")
  if flags["model.mixers"] == "fails":
    sys.exit("error: config.model: it fails")
  rates = [float(word) for word in words if not word.startswith("-")]
  for seed in range(int(flags["replicas"])):
    for rate in rates or [0.0]:
      name = f"learning_rate={rate},seed={seed}" if rates else f"seed={seed}"
      (folder / name).mkdir(exist_ok=True)
      found = {"accuracy": seed / 10 + rate, "loss": 1.0}
      train = {"step": 2, "split": "train", "loss": 1.0}
      speed = {"compile_seconds": 3.0, "tokens_per_second": 50.0}
      lines = [
        {"step": 0, "split": "model", "parameters": 70, "state_bytes": 32},
        {**train, **speed},
        {"step": STEPS, "split": "validation", **found},
      ]
      if flags["model.mixers"] == "diverges" and rate == max(rates):
        lines.pop()
      text = "".join(json.dumps(line) + "\n" for line in lines)
      (folder / name / "metrics.jsonl").write_text(text)
  sys.exit(int(flags["model.mixers"] == "diverges"))
