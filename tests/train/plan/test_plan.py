"""Plans for TPUs and GPUs, compiled ahead of time without them."""

import dataclasses
import json
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
compiles_for_gpu = [
  pytest.mark.gpu_aot,
  pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU),
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
  return collectives(over_four(model, Mesh(sequence=4), 1, length, function))


def over_four(model, mesh, batch_size, length, function="step"):
  """Returns the program for four chips of a v5e."""
  config = dataclasses.replace(
    tiny.get_config(), model=model, batch_size=batch_size, mesh=mesh
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
  return lowered.compile().as_text()


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


@pytest.mark.slow
@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
@pytest.mark.parametrize("mesh", [Mesh(fsdp=4), Mesh(data=2, fsdp=2)])
def test_chips_share_the_rows_of_the_kernel_of_mamba(mesh):
  width, rows, length = 64, 8, 512
  model = LanguageModel(tiny.VOCAB, width, 1, ("mamba",), mlp="none")
  text = over_four(model, mesh, rows, length)
  # The scan forth and back.
  assert text.count('"tpu_custom_call"') == 2
  # Gradients are added up and parameters gathered, but no chip's tokens, which
  # are larger than the largest parameter.
  moved = [x for x in collectives(text) if "reduce" not in x.kind]
  assert not any(x.kind == "all-to-all" for x in moved)
  largest = 4 * width * tiny.VOCAB
  tokens = 4 * 2 * width * length * rows // 4
  assert max((x.size for x in moved), default=0) <= largest < tokens


# What a plan says.


@pytest.fixture(
  scope="module",
  params=[
    pytest.param("v5e:2x2", marks=compiles),
    pytest.param("h100:2x2", marks=[*compiles_for_gpu, pytest.mark.slow]),
  ],
)
def planned(request, tmp_path_factory):
  """Returns the chip, and the JSON of a tiny run over four of them."""
  path = tmp_path_factory.mktemp("plan") / "plan.json"
  words = (TINY, f"--topology={request.param}", "--mesh.data=-1")
  words += ("--mesh.fsdp=2", f"--json={path}")
  assert command(*words) == 0
  chip = chips.SLICES[request.param.partition(":")[0]]
  return chip, json.loads(path.read_text())


def test_bytes_are_those_of_the_shards(planned):
  chip, made = planned
  memory = made["bytes_per_chip"]
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
  assert memory["chip"] == chip.memory and made["fits"]
  assert memory["default"] == chip.default_memory


def test_flops_collectives_and_mesh(planned):
  chip, made = planned
  assert made["mesh"] == {"data": 2, "fsdp": 2, "sequence": 1}
  # A compiler tells one of the two.
  told = {"tpu": "expected_cycles_per_step", "gpu": "launches_per_step"}
  assert made.pop(told.pop(chip.platform)) > 0
  (other,) = told.values()
  assert made[other] is None
  tokens = tiny.get_config().batch_size * tiny.Data().length
  assert made["tokens_per_step"] == tokens
  flops, count = made["flops_per_step"], made["parameters"]
  assert count == 2 * tiny.VOCAB * 8 + 8 + tiny.VOCAB
  assert flops["six_n"] == 6 * count * tokens
  # Of the products with weights, the read-out alone.
  assert flops["model"] == 3 * 2 * 8 * tiny.VOCAB * tokens
  assert flops["program"] > flops["model"]
  assert flops["peak"] == 4 * chip.peak
  assert flops["unknown"] == []
  assert made["compile_seconds"] > 0
  kinds = made["collectives_per_step"]
  # The losses and gradients are added up, at least.
  assert kinds["all-reduce"]["count"] >= 1
  assert kinds["all-reduce"]["bytes"] >= 4 * 3


@pytest.mark.gpu_aot
@pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU)
def test_gpus_that_share_the_batch_add_up_gradients_and_losses_alone():
  config = dataclasses.replace(
    tiny.get_config(), mesh=Mesh(data=4), optimizer=SGD()
  )
  made = compile.plan(config, "h100:2x2")
  # In one collective: the gradients, and the sums of three losses and weights.
  (found,) = made.collectives
  assert found[:3] == ("all-reduce", 4 * (made.parameters + 3), 1)
  assert made.launches > 20 and made.cycles is None
  memory, chip = made.memory, chips.SLICES["h100"]
  assert made.fits and memory.temporary > 4 * made.parameters
  assert (memory.chip, memory.default) == (chip.memory, chip.default_memory)
  assert memory.parameters == 4 * made.parameters


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
    pytest.param("taught", 12 * (4 + 258) * 4, marks=pytest.mark.slow),
  ],
)
def test_a_plan_takes_any_loss_and_any_inputs(name, size):
  config = tasks.config_of(*tasks.TASKS[name])
  made = compile.plan(config, "v5e:2x2")
  assert made.fits and made.flops.model > 0 and not made.flops.unknown
  assert made.flops.program > made.flops.model
  assert made.tokens == tasks.B * 12
  assert made.memory.batch == tasks.B * size
