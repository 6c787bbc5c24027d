"""Profiles a run that is stopped and resumed, and checks the traces.

It runs in its own process: a process that has compiled for TPUs holds libtpu,
and then JAX's profiler crashes on a machine without a TPU.
"""

import contextlib
import gzip
import io
import json
import os
import pathlib
import signal
import sys
from unittest import mock

from tests.train import tiny
from train.loop import run
from train.metrics import MetricsWriter

STEPS = range(3, 8)


def traced(folder):
  """Returns the steps of the trace: as annotated, and how many ran."""
  (path,) = pathlib.Path(folder).glob("plugins/profile/*/perfetto_trace.*")
  with gzip.open(path) as file:
    events = json.load(file)["traceEvents"]
  path.unlink()
  steps = [
    int(event["args"]["step_num"])
    for event in events
    if event.get("name") == "train"
  ]
  runs = {
    event["args"]["run_id"]
    for event in events
    if event.get("args", {}).get("hlo_module") == "jit_step"
  }
  assert any(event.get("name") == "read batch" for event in events)
  return steps, len(runs)


def stop_at_4(self, step, split, values, write=MetricsWriter.write):
  write(self, step, split, values)
  if (step, split) == (4, "train"):
    os.kill(os.getpid(), signal.SIGTERM)


def profiled(workdir):
  """Runs to the end or the signal: the steps done, and what was said."""
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    done = run(tiny.get_config(), workdir, STEPS).step
  return done, said.getvalue()


def main(workdir):
  folder = os.path.join(workdir, "profile")
  with mock.patch.object(MetricsWriter, "write", stop_at_4):
    stopped, said = profiled(workdir)
  assert stopped in (4, 5)
  steps = list(range(3, stopped + 1))
  assert traced(folder) == (steps, len(steps))
  assert f"profile of steps 3 to {stopped} in {folder}" in said

  done, said = profiled(workdir)
  assert done == 12
  steps = list(range(stopped + 1, 8))
  assert traced(folder) == (steps, len(steps))
  assert f"profile of steps {stopped + 1} to 7 in {folder}" in said

  _, said = profiled(workdir)
  assert "no profile: the run is already at step 12" in said
  assert not list(pathlib.Path(folder).glob("**/perfetto_trace.*"))


if __name__ == "__main__":
  main(sys.argv[1])
