"""Commands that must be refused in one line."""

from train.command import main_with_errors


def refused(command, words, capfd, *, code=2):
  """Runs a command that must be refused; returns its one line."""
  assert main_with_errors(command, words) == code
  error = capfd.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1, error
  # An error that nobody foresaw, or a paste of all that was typed.
  assert "unexpected" not in error and len(error) < 2500, error
  return error
