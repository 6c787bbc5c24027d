"""The code and the commands of the pages run, so that no page goes stale.

A section's Python blocks run in one namespace, after those of the page's
opening. A block whose first line is `# FILE.py` is that file instead: it is
written to an empty folder, where the section's commands then run. Commands are
indented lines that start with `python -m`.
"""

import contextlib
import pathlib
import re
import runpy
import shlex
import sys
import warnings
from typing import NamedTuple

import jax
import pytest

from jaxmodels import ops

ROOT = pathlib.Path(__file__).parents[1]
DERIVATIONS = ROOT / "jaxmodels" / "ops" / "README.md"
# The commands of these pages run too; those of README need minutes.
WITH_COMMANDS = (
  ROOT / "configs" / "README.md",
  ROOT / "train" / "data" / "README.md",
  ROOT / "train" / "FINETUNING.md",
)
PAGES = (
  DERIVATIONS,
  ROOT / "README.md",
  ROOT / "jaxmodels" / "interop" / "README.md",
  ROOT / "jaxmodels" / "mixers" / "README.md",
  ROOT / "jaxmodels" / "models" / "README.md",
  *WITH_COMMANDS,
)
# Names that a page leaves to the reader: a block with one is no program.
READERS = ("my_op", "MyMixer")
# Ops that are not made of segments, and so not derived.
NOT_DERIVED = {"Cache", "attention", "causal_convolution"}


class Section(NamedTuple):
  """What stands under a heading; the opening's is ""."""

  heading: str
  blocks: list[str]  # Python, behind as many empty lines as the page has.
  commands: list[str]


def sections(page):
  """The sections of a page."""
  found, block = [Section("", [], [])], None
  for number, line in enumerate(page.read_text().splitlines()):
    if block is None and line.startswith("## "):
      found.append(Section(line[3:], [], []))
    elif block is None and line.startswith("```python"):
      block = "\n" * (number + 1)
    elif block is not None and line.startswith("```"):
      found[-1].blocks.append(block)
      block = None
    elif block is not None:
      block += line + "\n"
    elif line.startswith("    python -m "):
      found[-1].commands.append(line.strip())
  assert block is None, f"{page}: a fence is left open"
  return found


def title(page, section):
  return f"{page.relative_to(ROOT)}: {section.heading}"


def file_name(block):
  """The name in a block's first line, or None."""
  found = re.match(r"# (\w+\.py)\n", block.lstrip("\n"))
  return found and found[1]


def is_whole(block):
  return file_name(block) is None and not any(name in block for name in READERS)


@contextlib.contextmanager
def as_a_reader():
  """JAX's own promotion, which a reader has, and optax and nnx need."""
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def run(page, blocks):
  """Runs blocks in one namespace; a traceback has the lines of the page."""
  names = {"__name__": "page"}
  with as_a_reader():
    for block in blocks:
      exec(compile(block, str(page), "exec"), names)


CASES = [
  pytest.param(page, section, id=title(page, section))
  for page in PAGES
  for section in sections(page)[1:]
  if any(map(is_whole, section.blocks))
]


@pytest.mark.parametrize(("page", "section"), CASES)
def test_the_code_of_a_section_runs(page, section, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # What it writes is not left in the checkout.
  opening = sections(page)[0]
  run(page, [*filter(is_whole, opening.blocks + section.blocks)])


COMMANDS = [
  pytest.param(
    page,
    section,
    id=title(page, section),
    marks=() if page.parent.name == "configs" else pytest.mark.slow,
  )
  for page in WITH_COMMANDS
  for section in sections(page)
  if section.commands
]


def run_command(command, folder):
  """Runs `python -m MODULE WORDS` in this process; returns its exit code.

  It is like a new process in that no file of the folder is imported.
  """
  _, _, module, *words = shlex.split(command)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(sys, "argv", [module, *words])
    patch.setattr(sys, "path", ["", *sys.path])
    try:
      with as_a_reader(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* found in sys.modules after")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
      return end.code
    finally:
      for name, other in list(sys.modules.items()):
        if str(folder) in str(getattr(other, "__file__", "")):
          del sys.modules[name]
  return 0


@pytest.mark.parametrize(("page", "section"), COMMANDS)
def test_the_files_and_commands_of_a_section_run(
  page, section, tmp_path, capfd
):
  for block in section.blocks:
    if file_name(block):
      (tmp_path / file_name(block)).write_text(block.lstrip("\n"))
  for command in section.commands:
    code = run_command(command, tmp_path)
    assert code == 0, f"{command}\n{capfd.readouterr()}"


def test_every_page_with_commands_has_some():
  assert {case.values[0] for case in COMMANDS} == set(WITH_COMMANDS)


LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#([^)\s]+))?\)")


def anchors(page):
  """The anchors of a page's headings, as GitHub makes them."""
  found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in found}


ROOMS = ("benchmarks", "configs", "jaxmodels", "tests", "train")
WITH_LINKS = sorted(
  [
    *ROOT.glob("*.md"),
    *(x for room in ROOMS for x in (ROOT / room).rglob("*.md")),
  ]
)


@pytest.mark.parametrize(
  "page", WITH_LINKS, ids=lambda x: str(x.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
  prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
  for name, anchor in LINK.findall(prose):
    target = (page.parent / name).resolve()
    assert target.exists(), f"{page}: {name}"
    if anchor:
      assert anchor in anchors(target), f"{page}: {name}#{anchor}"


@pytest.mark.parametrize("section", sections(DERIVATIONS)[1:])
def test_a_derivation_ends_in_one_block_that_checks_it(section):
  (block,) = section.blocks
  lines = block.strip().splitlines()
  assert any(re.match(r" *assert relative_error\(", x) for x in lines[-2:])


def test_every_op_of_segments_is_derived():
  text = DERIVATIONS.read_text()
  missing = {name for name in ops.__all__ if name not in text}
  assert missing <= NOT_DERIVED
