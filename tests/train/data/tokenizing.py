"""Folders of tokens that tests write."""

import os
import subprocess
import sys

import numpy as np

from train.data import (
  documents,
  tokenize,
)

DOCUMENTS = [b"alpha", b"\x00\xff", b"b", b"gamma gamma", b"de" * 9]


def tokenized(folder, contents=DOCUMENTS, *words):
  """Writes files and tokenises them, in this process: the folder."""
  (folder / "text").mkdir()
  for number, content in enumerate(contents):
    (folder / "text" / f"{number:03d}.txt").write_bytes(content)
  return run(folder, *words)


def run(folder, *words):
  given = ["--files", str(folder / "text"), "--output", str(folder / "out")]
  options = tokenize.read_flags([*given, *words])
  plan = documents.make_plan(options)
  os.makedirs(options.output, exist_ok=True)
  tokenize.tokenize(plan, options.output, 1)
  return options.output


def command(folder, *words):
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "train.data.tokenize"),
      *("--files", str(folder / "text"), "--output", str(folder / "out")),
      *words,
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def files_of(folder):
  return {
    name: (folder / name).read_bytes()
    for name in os.listdir(folder)
    if name != ".lock"
  }


def rows_of(dataset):
  return [dataset[index] for index in range(len(dataset))]


def predicted(dataset):
  """The tokens that are predicted, each once."""
  rows = rows_of(dataset)
  return np.concatenate([row["targets"][row["weights"] > 0] for row in rows])
