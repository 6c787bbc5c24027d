import gzip
import json
import os
import pathlib
import signal

import pytest

from tests.train import tiny
from train import flags
from train.errors import UserError
from train.loop import run
from train.metrics import MetricsWriter


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


def test_a_profile_holds_its_steps_and_no_others(tmp_path, monkeypatch, capsys):
  config, workdir = tiny.get_config(), str(tmp_path)
  folder = os.path.join(workdir, "profile")
  write = MetricsWriter.write

  def stop_at_4(self, step, split, values):
    write(self, step, split, values)
    if (step, split) == (4, "train"):
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(MetricsWriter, "write", stop_at_4)
    stopped = run(config, workdir, range(3, 8)).step
  assert stopped in (4, 5)
  steps = list(range(3, stopped + 1))
  assert traced(folder) == (steps, len(steps))
  said = capsys.readouterr().out
  assert f"profile of steps 3 to {stopped} in {folder}" in said

  assert run(config, workdir, range(3, 8)).step == 12
  steps = list(range(stopped + 1, 8))
  assert traced(folder) == (steps, len(steps))
  said = capsys.readouterr().out
  assert f"profile of steps {stopped + 1} to 7 in {folder}" in said

  run(config, workdir, range(3, 8))
  said = capsys.readouterr().out
  assert "no profile: the run is already at step 12" in said
  assert not list(pathlib.Path(folder).glob("**/perfetto_trace.*"))


def parse(value):
  words = ("--config=tests/train/tiny.py", f"--profile_steps={value}")
  return flags.parse(words)


def test_the_flag_is_half_open_and_no_part_of_the_config():
  command = parse("3,6")
  assert list(command.profile_steps) == [3, 4, 5]
  assert command.config == tiny.get_config()
  assert not flags.parse(["--config=tests/train/tiny.py"]).profile_steps


@pytest.mark.parametrize(
  ("value", "part"),
  [
    ("3", "FIRST,LAST"),
    ("6,3", "FIRST < LAST"),
    ("3,3", "FIRST < LAST"),
    ("0,3", "1 <= FIRST"),
    ("-1,3", "1 <= FIRST"),
    ("a,b", "FIRST,LAST"),
    ("13,20", "after the last step, which is 12"),
  ],
)
def test_a_wrong_value_is_named_in_one_line(value, part):
  with pytest.raises(UserError) as error:
    parse(value)
  message = str(error.value)
  assert message.startswith(f"--profile_steps={value} ")
  assert part in message and "\n" not in message
