import pytest

from jaxmodels.models import count_parameters
from tests.train import tiny
from train import equal_width
from train.command import main_with_errors

TINY = "tests/train/tiny.py"


def test_the_command_prints_the_width(capfd):
  words = (TINY, f"--like={TINY}", "--model.vocab-size", "100")
  assert main_with_errors(equal_width._run, words) == 0
  wanted = count_parameters(tiny.Model())
  sizes = {w: count_parameters(tiny.Model(100, w)) for w in range(1, 40)}
  width = min(sizes, key=lambda w: abs(sizes[w] - wanted))
  assert capfd.readouterr().out == (
    f"--model.width {width} gives {sizes[width]:,} parameters; {TINY} has"
    f" {wanted:,}\n"
  )


@pytest.mark.parametrize(
  ("words", "part"),
  [
    ((TINY,), "--like is missing"),
    ((TINY, "--like=no.py"), "no config file no.py"),
    ((TINY, f"--like={TINY}", "--model.widht=3"), "did you mean --model.width"),
  ],
)
def test_wrong_words_end_in_one_line(words, part, capfd):
  assert main_with_errors(equal_width._run, words) == 2
  error = capfd.readouterr().err
  assert part in error and error.count("\n") == 1
