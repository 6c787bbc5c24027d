"""Commands that must be refused in one line, and change nothing."""

import pathlib
import shutil

from train.command import main_with_errors


def content_of(folder):
  """Returns everything in a folder."""
  return {
    path: path.read_bytes()
    for path in pathlib.Path(folder).rglob("*")
    if path.is_file()
  }


def unchanged_copy(finished, tmp_path_factory):
  """Yields the directory of a copy of a run, and checks that it stays."""
  folder = tmp_path_factory.mktemp("run") / "copy"
  shutil.copytree(finished[0], folder)
  before = content_of(folder)
  yield str(folder)
  assert content_of(folder) == before


def refused(command, words, capfd, *, code=2):
  """Runs a command that must be refused; returns its one line."""
  assert main_with_errors(command, words) == code
  error = capfd.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1, error
  # An error that nobody foresaw, or a paste of all that was typed.
  assert "unexpected" not in error and len(error) < 2500, error
  return error
