"""The command `train.plan`: its suggestions, and wrong words."""

import dataclasses
import json
import re
from types import SimpleNamespace

import jax
import pytest

from jaxmodels.analysis import chips
from jaxmodels.models import LanguageModel
from tests.train import tiny
from tests.train.plan.test_plan import TINY, command, compiling
from train.config import (
  Mesh,
  command_line,
)
from train.plan import __main__ as plan
from train.plan import compile


@pytest.mark.parametrize(
  ("room", "wanted", "tries"),
  [
    (400, "model.remat=dots", 1),
    (200, "model.remat=full", 2),
    (
      100,
      "model.remat=full mesh.data=1 mesh.fsdp=8 mesh.sequence=1 accumulation=2",
      4,
    ),
    (
      25,
      "model.remat=full mesh.data=1 mesh.fsdp=2 mesh.sequence=4 accumulation=8",
      6,
    ),
    (10, None, 6),
  ],
)
def test_the_mildest_change_that_fits_is_suggested(
  room, wanted, tries, monkeypatch
):
  asked = []

  def planned(config, name):
    """Returns a plan; recomputation, microbatches and shards save memory."""
    asked.append(config)
    mesh = config.mesh
    rows = config.batch_size // (mesh.data * mesh.fsdp * config.accumulation)
    kept = {"none": 4, "dots": 2, "full": 1}[config.model.remat]
    size = rows * kept * 100 // mesh.sequence
    memory = compile.Memory(0, 0, 0, size, 0, room, room)
    none = compile.Flops(1.0, 1.0, 1.0, 1.0)
    return compile.Plan(
      name, mesh, 1, 1, memory, size <= room, [], none, 1, None, 0.0
    )

  monkeypatch.setattr(plan, "plan", planned)
  model = LanguageModel(tiny.VOCAB, 16, 1, ("gla",))
  config = dataclasses.replace(
    tiny.get_config(), model=model, batch_size=16, mesh=Mesh(data=8)
  )
  found = plan.suggest(config, planned(config, "v5e:2x4"))
  words = wanted and [f"--{word}" for word in wanted.split()]
  assert (found and found[0]) == words
  # The flags lead to what was planned.
  assert len(asked) == 1 + tries
  assert not found or command_line.override(config, found[0]) == asked[-1]


@pytest.mark.parametrize(
  ("total", "fits", "verdict"),
  [
    (75, True, "it fits"),
    (76, True, r"it fits, but not .* XLA_CLIENT_MEM_FRACTION=0\.76 or more"),
    (101, False, "it does NOT fit"),
  ],
)
def test_what_jax_does_not_take_by_default_is_said(total, fits, verdict):
  memory = compile.Memory(1, 2, 3, total - 6, 0, 100, 75)
  lines = plan._memory_lines(SimpleNamespace(memory=memory, fits=fits))
  assert re.fullmatch(verdict, lines[-1])
  assert any(re.fullmatch("JAX's default +75 B", line) for line in lines)


def test_what_xla_cannot_write_is_unknown():
  def as_text():
    raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

  assert compile._text(SimpleNamespace(as_text=as_text)) == ""
  memory = compile.Memory(0, 0, 0, 0, 0, 1, 1)
  none = compile.Flops(1.0, 1.0, 1.0, 1.0)
  made = compile.Plan("", Mesh(), 1, 1, memory, True, [], none, 1, None, 0.0)
  for found, line in (([], "no collectives"), (None, "collectives unknown")):
    made = dataclasses.replace(made, collectives=found)
    assert plan._collective_lines(made) == [line]


@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
def test_a_step_that_does_not_compile_gets_a_layout_that_does(capsys):
  rows = 2**24
  words = (TINY, "--topology=v5e:2x2", f"--batch_size={rows}")
  words = (*words, "--mesh.data=1")
  assert command(*words, "--json=-") == 1
  made = json.loads(capsys.readouterr().out)
  memory = made["bytes_per_chip"]
  # The logits of all rows at once, in float32.
  logits = 4 * rows * tiny.Data().length * tiny.VOCAB
  assert memory["temporary"] > logits > memory["chip"]
  assert not made["fits"] and made["collectives_per_step"] is None
  other = made["suggestion"]
  assert other["flags"] == [f"--accumulation={rows}"]
  assert other["fits"] and other["bytes_per_chip"]["total"] < memory["chip"]


# What is wrong ends in one line.


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ((TINY,), r"--topology=SLICE is missing, such as v5e:16x16"),
    ((TINY, "--topology=v9:2x2"), r"v9:2x2 is unknown: .* v5e, v5p, v6e"),
    ((TINY, "--topology=h100:2x2x2"), r"h100:2x2x2 is unknown: .*h100:4x8"),
    ((TINY, "--topology=v5e"), r"--topology=v5e is unknown: .* v5p:2x2x4"),
    (("--topology=v5e:2x2",), r"the config file must come first"),
    ((TINY, "--topolgy=v5e:2x2"), r"unknown flag --topolgy"),
    compiling(
      (TINY, "--topology=v5e:3x5"), "there is no slice v5e:3x5: .*v6e:16x16"
    ),
    compiling(
      (TINY, "--topology=v5e:2x2", "--mesh.data=3"), r"config\.mesh is"
    ),
    compiling(
      (TINY, "--topology=v5e:2x2", "--strategy=pmap"), r"only 'jit' can"
    ),
    compiling(
      (TINY, "--topology=v5e:2x2", "--data.length=-5"), r"length is -5"
    ),
    compiling(
      (TINY, "--topology=v5e:2x2", "--data.length=9999999999999"),
      r"length is 9+, but must be 1 to",
    ),
    compiling(
      (TINY, "--topology=v5e:2x2", "--mesh.sequence=2"),
      r"mesh\.sequence must be 1",
    ),
    compiling(
      (TINY, "--topology=v5e:2x2", "--model.width=0"),
      r"config\.model: width must be positive",
    ),
  ],
)
def test_a_wrong_command_is_one_line(words, message, capsys):
  assert command(*words) == 2
  line = capsys.readouterr().err.strip()
  assert re.search(message, line) and "\n" not in line


@pytest.mark.parametrize(
  ("slice_", "extra"), [("v5e:2x2", "aot"), ("h100:8", "gpu-aot")]
)
def test_without_a_compiler_one_line_says_what_to_install(
  slice_, extra, monkeypatch, capsys
):
  monkeypatch.setattr(chips, "is_there", lambda *_: False)
  assert command(TINY, f"--topology={slice_}") == 2
  line = capsys.readouterr().err.strip()
  assert line.endswith(f"pip install jaxmodels[{extra}]") and "\n" not in line


# The mesh of a config that does not say it.


@pytest.mark.parametrize(
  ("words", "mesh"),
  [
    ((), Mesh(data=-1)),
    (("--mesh.data=1",), Mesh()),
    (("--mesh.fsdp=2",), Mesh(fsdp=2)),
    (("--strategy=pmap",), Mesh()),
  ],
)
def test_a_default_mesh_is_the_whole_slice(words, mesh, monkeypatch, capsys):
  def planned(config, name):
    assert config.mesh == mesh
    memory, none = (
      compile.Memory(0, 0, 0, 0, 0, 1, 1),
      compile.Flops(1.0, 1.0, 1.0, 1.0),
    )
    return compile.Plan(name, mesh, 1, 1, memory, True, [], none, 1, None, 0.0)

  monkeypatch.setattr(plan, "plan", planned)
  assert command(TINY, "--topology=v5e:2x4", *words) == 0
  says = "the mesh is the default, so" in capsys.readouterr().out
  assert says == (mesh == Mesh(data=-1))


@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
def test_a_step_that_is_far_too_large_is_not_compiled(monkeypatch, capsys):
  monkeypatch.setattr(compile, "_compile", pytest.fail)
  words = (TINY, "--topology=v5e:2x2", "--model.width=2000000000")
  assert command(*words, "--json=-") == 1
  made = json.loads(capsys.readouterr().out)
  assert not made["fits"] and made["suggestion"] is None
  assert made["bytes_per_chip"]["parameters"] > 4 * 2 * tiny.VOCAB * 2 * 10**9


@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
def test_a_batch_that_does_not_divide_over_the_slice_is_an_error(capsys):
  words = (TINY, "--topology=v5e:4x4")
  assert command(*words) == 2
  line = capsys.readouterr().err
  assert "config.batch_size is 8, but must be divisible by" in line
  assert "--mesh.data=1 plans for one chip" in line
  assert line.count("\n") == 1
