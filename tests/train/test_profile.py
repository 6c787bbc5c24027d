"""Traces of steps, and the flag `--profile_steps`."""

import pathlib
import subprocess
import sys

import pytest

from tests.train import tiny
from train.config import command_line
from train.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


def test_a_profile_holds_its_steps_and_no_others(tmp_path):
  words = [
    sys.executable,
    "-m",
    "tests.train.programs.stop_and_profile",
    str(tmp_path),
  ]
  done = subprocess.run(
    words, cwd=ROOT, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr


def parse(value):
  words = ("tests/train/tiny.py", f"--profile-steps={value}")
  return command_line.parse(words)


def test_the_flag_is_half_open_and_no_part_of_the_config():
  command = parse("3,6")
  assert list(command.profile_steps) == [3, 4, 5]
  assert command.config == tiny.get_config()
  assert not command_line.parse(["tests/train/tiny.py"]).profile_steps


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
  assert message.startswith(f"--profile-steps={value} ")
  assert part in message and "\n" not in message
