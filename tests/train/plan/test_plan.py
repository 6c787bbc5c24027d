"""Plans for TPU slices, compiled ahead of time without a TPU."""

import dataclasses
import json
import re
from types import SimpleNamespace

import jax
import pytest
from flax import linen as nn
from jax.extend.core import Primitive

from jaxmodels.analysis import chips
from jaxmodels.analysis.collectives import collectives
from jaxmodels.models import LanguageModel
from jaxmodels.ops.engine.platform import trace_for
from tests.train import tasks, tiny
from train.command import main_with_errors
from train.config import (
  SGD,
  AdamW,
  Mesh,
  Muon,
  ScheduleFreeAdamW,
  command_line,
)
from train.devices.strategy import make_strategy
from train.plan import __main__ as plan
from train.plan import compile
from train.setup import make_learner, new_state

TINY = "tests/train/tiny.py"
LARGE = "configs/hybrid_1b.py"

compiles = [
  pytest.mark.tpu_aot,
  pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING),
]


def compiling(*arguments):
  return pytest.param(*arguments, marks=compiles)


def command(*words):
  return main_with_errors(plan._run, words)


# Bytes of the optimizer per parameter: of a matrix, and of the others.
OPTIMIZERS = {
  "sgd": (SGD(), 4, 4),
  "muon": (Muon(), 4, 8),
  "average": (AdamW(ema=0.9, sam_radius=0.1), 12, 12),
  "schedule_free": (ScheduleFreeAdamW(noise=0.1), 8, 8),
}


@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_memory_of_an_optimizer(name):
  optimizer, matrix, other = OPTIMIZERS[name]
  config = dataclasses.replace(tiny.get_config(), optimizer=optimizer)
  found = compile.plan(config, "v5e:2x2")
  assert found.fits and found.flops.program
  kernel = 8 * tiny.VOCAB
  wanted = matrix * kernel + other * (found.parameters - kernel)
  # Beside it are only counters and keys.
  assert wanted < found.memory.optimizer < wanted + 100


# What a sequence cut over chips costs.


def cut(mixer, length, function):
  """Returns the collectives of two linear layers over four chips."""
  model = LanguageModel(
    tiny.VOCAB, 16, 2, (mixer,), {mixer: {"heads": 1}}, mlp="none"
  )
  config = dataclasses.replace(
    tiny.get_config(), model=model, batch_size=1, mesh=Mesh(sequence=4)
  )
  learner, devices = make_learner(config), chips.slice_devices("v5e:2x2")
  with trace_for("tpu"):
    _, state = new_state(config, learner, length)
    strategy = make_strategy("jit", learner, mesh=config.mesh, devices=devices)
    batch = {
      name: jax.ShapeDtypeStruct((config.batch_size, length), dtype)
      for name, dtype in compile.TOKENS.items()
    }
    arguments = compile.lay_out(strategy, state, batch)
    lowered = getattr(strategy, function).lower(*arguments)
  return collectives(lowered.compile().as_text())


def of_segments(found):
  """Those that carry the segments of a layer forward, by layer.

  The program asks for an all-gather; of a small one the compiler makes an
  all-reduce of zeros and each chip's own.
  """
  forward = [x for x in found if "transpose(jvp" not in x.scope]
  layers = ([x for x in forward if f"layer_{i}/" in x.scope] for i in (0, 1))
  return [
    [(x.size, x.times) for x in layer if "all_gather" in x.scope]
    for layer in layers
  ]


# The ids before each piece; what the losses add up to.
IDS, SUMS = ("collective-permute", 4), ("all-reduce", 12)


@pytest.mark.parametrize(
  ("lengths", "function"),
  [
    compiling((2**10,), "evaluate"),
    pytest.param((2**13, 2**17), "step", marks=[*compiles, pytest.mark.slow]),
  ],
)
def test_a_linear_layer_needs_one_collective_at_any_length(lengths, function):
  # Of four chips, a state [8, 16] and a decay [8] in float32: K is D / 2.
  size = 4 * 4 * (8 * 16 + 8)
  for length in lengths:
    found = cut("gla", length, function)
    assert of_segments(found) == [[(size, 1)]] * 2
    if function == "evaluate":
      rest = [(x.kind, x.size) for x in found if "all_gather" not in x.scope]
      assert sorted(rest) == [SUMS, IDS]


# What a plan says.


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
  """Returns the JSON of a tiny run over four chips, and the printed text."""
  if not chips.is_there():
    pytest.skip(chips.MISSING)
  path = tmp_path_factory.mktemp("plan") / "plan.json"
  words = (TINY, "--topology=v5e:2x2", "--mesh.data=-1")
  words += ("--mesh.fsdp=2", f"--json={path}")
  assert command(*words) == 0
  return json.loads(path.read_text())


@pytest.mark.tpu_aot
def test_bytes_are_those_of_the_shards(planned):
  memory = planned["bytes_per_chip"]
  vocab, width = tiny.VOCAB, tiny.Model().width
  # The table and the kernel in halves; the decay and the bias whole.
  table, kernel = vocab * width // 2, width * vocab // 2
  parameters = 4 * (table + kernel + width + vocab)
  assert memory["parameters"] == parameters
  # Two moments; the counts of Adam and the schedule, step, key, stopped.
  assert memory["optimizer"] == 2 * parameters + 4 + 4 + 4 + 2 * 4 + 1
  rows, length = tiny.get_config().batch_size // 4, tiny.Data().length
  assert memory["batch"] == 4 * 4 * rows * length
  parts = ("parameters", "optimizer", "batch", "temporary", "program")
  assert memory["total"] == sum(memory[part] for part in parts)
  assert memory["temporary"] > parameters, "the gradients, if nothing else"
  assert memory["chip"] == 15.75 * 2**30 and planned["fits"]


@pytest.mark.tpu_aot
def test_flops_collectives_and_mesh(planned):
  assert planned["mesh"] == {"data": 2, "fsdp": 2, "sequence": 1}
  assert planned["expected_cycles_per_step"] > 0
  tokens = tiny.get_config().batch_size * tiny.Data().length
  assert planned["tokens_per_step"] == tokens
  flops, count = planned["flops_per_step"], planned["parameters"]
  assert count == 2 * tiny.VOCAB * 8 + 8 + tiny.VOCAB
  assert flops["six_n"] == 6 * count * tokens
  # Of the products with weights, the read-out alone.
  assert flops["model"] == 3 * 2 * 8 * tiny.VOCAB * tokens
  assert flops["program"] > flops["model"]
  assert flops["peak"] == 4 * 197e12
  assert flops["unknown"] == []
  assert planned["compile_seconds"] > 0
  kinds = planned["collectives_per_step"]
  # The losses and gradients are added up, at least.
  assert kinds["all-reduce"]["count"] >= 1
  assert kinds["all-reduce"]["bytes"] >= 4 * 3


def test_the_table_names_primitives_of_unknown_flops_once():
  counts = compile.Flops(6.0, 5.0, 7.0, 1.0, ["eigh", "made_up"])
  lines = plan._flops_lines(SimpleNamespace(flops=counts))
  assert [line for line in lines if "made_up" in line] == [
    "flops: eigh, made_up counted as elementwise, since their flops are unknown"
  ]


made_up = Primitive("made_up")
made_up.def_abstract_eval(lambda x: x)


class Unknown(tiny.Model):
  """The tiny model with a primitive that nobody knows."""

  @nn.compact
  def __call__(self, tokens, state=None, *, segment_ids=None):
    y, state = super().__call__(tokens, state, segment_ids=segment_ids)
    return made_up.bind(y), state


def test_an_unknown_primitive_is_in_the_flops_of_a_plan():
  config = dataclasses.replace(tiny.get_config(), model=Unknown())
  length = tiny.Data().length
  example, _ = compile.example_of(config)
  _, state = new_state(config, make_learner(config), example)

  def forward(params, tokens):
    return config.model.apply({"params": params}, tokens)[0]

  tokens = jax.ShapeDtypeStruct((config.batch_size, length), "int32")
  traced = jax.jit(forward).trace(state.params, tokens)
  found = compile._flops(config, state, example, length, traced, 1.0)
  assert found.unknown == ["made_up"]
  assert found.program > found.model / 3 > 0


# What fits where that does not.


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
    memory = compile.Memory(0, 0, 0, size, 0, room)
    none = compile.Flops(1.0, 1.0, 1.0, 1.0)
    return compile.Plan(
      name, mesh, 1, 1, memory, size <= room, [], none, 1, 0.0
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
  assert not made["fits"] and made["collectives_per_step"] == {}
  other = made["suggestion"]
  assert other["flags"] == [f"--accumulation={rows}"]
  assert other["fits"] and other["bytes_per_chip"]["total"] < memory["chip"]


# What is wrong ends in one line.


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ((TINY,), r"--topology=SLICE is missing, such as v5e:16x16"),
    ((TINY, "--topology=v9:2x2"), r"v9:2x2 is unknown: .* v5e, v5p, v6e"),
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


def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setattr(chips, "is_there", lambda: False)
  assert command(TINY, "--topology=v5e:2x2") == 2
  line = capsys.readouterr().err.strip()
  assert line.endswith("pip install jaxmodels[aot]") and "\n" not in line


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
      compile.Memory(0, 0, 0, 0, 0, 1),
      compile.Flops(1.0, 1.0, 1.0, 1.0),
    )
    return compile.Plan(name, mesh, 1, 1, memory, True, [], none, 1, 0.0)

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


# Large runs: minutes each.


@pytest.mark.slow
@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
@pytest.mark.parametrize(
  ("words", "parameters"),
  [
    ((), (1.25e9, 1.35e9)),
    (
      # A sequence of a million tokens, 4096 on each chip.
      (
        "--data.length=1048576",
        "--mesh.fsdp=1",
        "--mesh.sequence=256",
        "--batch_size=1",
        "--model.width=1024",
        "--model.mlp_options.hidden=2816",
        "--model.depth=4",
        "--model.mixers=gated_deltanet,sliding_attention",
      ),
      (50e6, 60e6),
    ),
  ],
  ids=["32k", "1M"],
)
def test_a_large_hybrid_fits(words, parameters):
  config = command_line.override(command_line.load(LARGE), words)
  made = compile.plan(config, "v5e:16x16")
  least, most = parameters
  assert least < made.parameters < most
  assert made.tokens == 2**20
  assert made.fits
  gathers = [x for x in made.collectives if "delta_rule/all_gather" in x.scope]
  forward = [x for x in gathers if "transpose(jvp" not in x.scope]
  layers = config.model.depth * config.model.mixers.count("gated_deltanet")
  assert sum(x.times for x in forward) * len(config.model.mixers) == layers


@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
@pytest.mark.parametrize(
  ("name", "size"),
  [
    # Inputs [12, 3] and a weight and a class in 4 bytes, a mask [12] in one.
    ("class mean", 12 * 3 * 4 + 12 + 2 * 4),
    # Inputs [12, 3], targets [12, 5] and weights [12].
    pytest.param("token", 12 * (3 + 5 + 1) * 4, marks=pytest.mark.slow),
    # Tokens, targets, weights and segments [12], logits [12, 258].
    ("taught", 12 * (4 + 258) * 4),
  ],
)
def test_a_plan_takes_any_loss_and_any_inputs(name, size):
  config = tasks.config_of(*tasks.TASKS[name])
  made = compile.plan(config, "v5e:2x2")
  assert made.fits and made.flops.model > 0 and not made.flops.unknown
  assert made.flops.program > made.flops.model
  assert made.tokens == tasks.B * 12
  assert made.memory.batch == tasks.B * size
