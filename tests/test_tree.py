"""The repository holds what CONTRIBUTING names, and nothing that a run left."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TOP = {
  *(".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"),
  *("LICENSE", "Makefile", "README.md", "benchmarks", "configs"),
  *("constraints.txt", "jaxmodels", "notebooks", "pyproject.toml", "tests"),
  "train",
}


def test_no_other_file_or_folder_is_at_the_top():
  if not shutil.which("git") or not (ROOT / ".git").exists():
    pytest.skip("not a checkout of git")
  listed = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
  )
  tops = {name.split("/")[0] for name in listed.stdout.splitlines()}
  assert tops <= TOP
