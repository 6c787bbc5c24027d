"""Stands in for `train.sweep.cell`: writes a validation without training.

The width decides what happens: 1 waits for SIGTERM at its first start, 2 dies
of SIGKILL, 3 ends without a validation, others have the loss width + seed.
"""

import json
import os
import pathlib
import signal
import sys

if __name__ == "__main__":
  words = [word[2:].split("=", 1) for word in sys.argv if "=" in word]
  flags = dict(words)
  folder = pathlib.Path(flags["workdir"])
  width, seed = int(flags["model.width"]), int(flags["seed"])
  ready = folder / "ready"
  with (folder / "starts").open("a") as file:
    file.write("1")
  if width == 1 and not ready.exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ready.touch()
    signal.pause()
  if width == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  if width != 3:
    line = {"step": 12, "split": "validation", "loss": width + seed}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
