"""A table of tiny runs."""

from train.results import Claim, Column, Row, Table

CONFIG = "tests/train/tiny.py"


def get_table():
  return Table(
    rows=(Row("good", "sum,sum"), Row("diverges"), Row("fails")),
    columns=(
      Column(
        "tiny", CONFIG, "accuracy", rates=(0.1, 0.2), seeds=2, chance=0.05
      ),
      Column(
        "loss",
        CONFIG,
        "loss",
        metric="loss",
        seeds=1,
        options_of={"good": {"decay": 0.25}},
        lower_is_better=True,
        without=("diverges", "fails"),
      ),
    ),
    claims=(
      Claim("good sums", "A 2024", "tiny", ("good",), bound=0.2),
      Claim("good wins", "B 2024", "tiny", ("good",), above=("diverges",)),
      Claim("it fails", "C 2024", "tiny", ("fails",), bound=0.2),
    ),
  )
