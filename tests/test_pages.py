"""The code in the pages runs: the page of derivations cannot rot."""

import pathlib
import re
from typing import NamedTuple

import pytest

from jaxmodels import ops

ROOT = pathlib.Path(__file__).parents[1]
DERIVATIONS = ROOT / "jaxmodels" / "ops" / "README.md"
PAGES = (
  DERIVATIONS,
  ROOT / "README.md",
  ROOT / "jaxmodels" / "mixers" / "README.md",
  ROOT / "jaxmodels" / "models" / "README.md",
  ROOT / "train" / "data" / "README.md",
)
# Names that a page leaves to the reader: a block with one is no program.
READERS = ("my_op", "MyMixer")
# Ops that are not made of segments, and so not derived.
NOT_DERIVED = {"Cache", "attention", "causal_convolution"}


class Section(NamedTuple):
  """What stands under a heading; the opening's is ""."""

  heading: str
  blocks: list[str]  # Python, behind as many empty lines as the page has.


def sections(page):
  """The sections of a page."""
  found, block = [Section("", [])], None
  for number, line in enumerate(page.read_text().splitlines()):
    if block is None and line.startswith("## "):
      found.append(Section(line[3:], []))
    elif block is None and line.startswith("```python"):
      block = "\n" * (number + 1)
    elif block is not None and line.startswith("```"):
      found[-1].blocks.append(block)
      block = None
    elif block is not None:
      block += line + "\n"
  assert block is None, f"{page}: a fence is left open"
  return found


def title(page, section):
  return f"{page.relative_to(ROOT)}: {section.heading}"


def is_whole(block):
  return not any(name in block for name in READERS)


def run(page, blocks):
  """Runs blocks in one namespace; a traceback has the lines of the page."""
  names = {}
  for block in blocks:
    exec(compile(block, str(page), "exec"), names)


CASES = [
  pytest.param(page, section, id=title(page, section))
  for page in PAGES
  for section in sections(page)[1:]
  if any(map(is_whole, section.blocks))
]


@pytest.mark.parametrize(("page", "section"), CASES)
def test_the_code_of_a_section_runs(page, section):
  opening = sections(page)[0]
  run(page, [*opening.blocks, *filter(is_whole, section.blocks)])


@pytest.mark.parametrize("section", sections(DERIVATIONS)[1:])
def test_a_derivation_ends_in_one_block_that_checks_it(section):
  (block,) = section.blocks
  lines = block.strip().splitlines()
  assert any(re.match(r" *assert relative_error\(", x) for x in lines[-2:])


def test_every_op_of_segments_is_derived():
  text = DERIVATIONS.read_text()
  missing = {name for name in ops.__all__ if name not in text}
  assert missing <= NOT_DERIVED
