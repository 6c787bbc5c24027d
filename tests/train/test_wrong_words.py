"""A user's mistake ends every command in one line."""

import os
import shutil

import pytest

from tests.train.refusals import refused, unchanged_copy
from train import __main__ as train
from train import evaluate, generate, report
from train.command import main_with_errors
from train.config import command_line
from train.devices import distributed
from train.errors import UserError
from train.plan import __main__ as plan

TINY = "tests/train/tiny.py"
DIGITS = "9" * 100_000


@pytest.fixture(scope="module")
def workdir(finished, tmp_path_factory):
  """A copy of a run; nothing in it may change."""
  yield from unchanged_copy(finished, tmp_path_factory)


# Overrides of the config: the word, and what the line must say.

COUNT = "1 to 2147483647"

WORDS = [
  ("--config.", "unknown flag --config."),
  ("--=1", "unknown flag --"),
  ("--model=", "--model: it has flags of its own, --model.vocab"),
  ("--model", "--model"),
  ("--model.=3", "unknown flag --model."),
  ("--.width=3", "did you mean --model.width"),
  ("--model..width=3", "did you mean --model.width"),
  ("--steps.x=3", "unknown flag --steps.x"),
  ("--model.width.x=3", "did you mean --model.width"),
  ("--model.__class__=3", "unknown flag --model.__class__"),
  ("--model.parent=3", "unknown flag --model.parent"),
  ("--model.mixer_options=3", "flags of its own"),
  ("--model.mixer_options.=3", "cannot be the name of an option"),
  ("--model.mixer_options.items.x=3", "cannot be the name"),
  ("--model.mixer_options.sum[decay]=3", "cannot be the name"),
  ("--model.mixer_options." + "x." * 5000 + "y=1", "cannot be the name"),
  ("--model.mixers=(1,)", "--model.mixers"),
  ("--model.mixers=" + "(1," * 5000, "cannot be read"),
  ("--model.dtype=", "--model.dtype"),
  ("--model.dtype=float64", "JAX_ENABLE_X64=1"),
  ("--model.param_dtype=float64", "JAX_ENABLE_X64=1"),
  ("--model.dtype=int32", "must be a floating-point dtype"),
  ("--model.dtype=ndarray", "'ndarray' is not a dtype"),
  ("--model.width=0", "config.model: width must be positive"),
  ("--model.width=-8", "config.model: width must be positive"),
  ("--model.vocab_size=99999999999", "at most 2147483647"),
  (
    "--model.width=2000000000",
    "parameters and optimizer need 11.29 TiB",
  ),
  ("--steps=", "the value must be int"),
  ("--steps=²", "the value must be int"),
  ("--steps=1e3", "the value must be int"),
  ("--steps=True", "the value must be int"),
  ("--steps=" + DIGITS, "the value must be int"),
  ("--steps=2147483648", "config.steps is 2147483648, but must be 1 to"),
  ("--steps=4294967296", COUNT),
  ("--batch_size=99999999999", COUNT),
  ("--batch_size=2147483640", "this machine has"),
  ("--accumulation=99999999999", COUNT),
  ("--log_every=99999999999", COUNT),
  ("--eval_every=99999999999", COUNT),
  ("--checkpoint_every=99999999999", COUNT),
  ("--keep=99999999999", COUNT),
  ("--eval_batches=99999999999", COUNT),
  ("--seed=4294967296", "config.seed is 4294967296, but must be 0 to"),
  ("--seed=99999999999999999999", "config.seed"),
  ("--seed=-1", "config.seed is -1"),
  ("--debug=maybe", "the value must be bool"),
  ("--debug=", "the value must be bool"),
  ("--strategy=", "config.strategy is ''"),
  ("--mesh.data=99999999999999999999", "config.mesh.data is 999"),
  ("--mesh.data=999999999999", "must divide the"),
  ("--optimizer.warmup_steps=99999999999", "warmup_steps"),
  ("--optimizer.schedule.end_step=99999999999", "end_step"),
  ("--optimizer.schedule.end_step=1.5", "the value must be int"),
  *(
    (f"--optimizer.{key}={value}", f"config.optimizer.{key} is ")
    for key in ("learning_rate", "epsilon", "clip")
    for value in ("inf", "nan", "-1", "1e39", "1e400")
  ),
  *(
    (f"--optimizer.weight_decay={value}", "optimizer.weight_decay is ")
    for value in ("nan", "-1", "1e39")
  ),
  # 0 in float32.
  ("--optimizer.learning_rate=1e-50", "finite in float32"),
  ("--optimizer.epsilon=1e-50", "finite in float32"),
  ("--optimizer.clip=1e-50", "finite in float32"),
  ("--optimizer.learning_rate=-0.0", "is -0.0"),
  # 1 in float32.
  ("--optimizer.b2=0.99999999999", "less than 1 in float32"),
  ("--optimizer.b1=nan", "config.optimizer.b1 is nan"),
  ("--optimizer.schedule.floor=nan", "optimizer.schedule.floor is nan"),
  ("--sample.length=99999999999", "config.sample.length"),
  ("--sample.top_k=99999999999", "config.sample.top_k"),
  ("--sample.top_p=nan", "config.sample.top_p is nan"),
  ("--sample.temperature=nan", "config.sample.temperature is nan"),
  ("--sample.temperature=inf", "config.sample.temperature is inf"),
  ("--data.length=9999999999999", "out of memory"),
  ("--\udcff=1", "unknown flag"),
  ("--steps=1\n2", "--steps=1 2 is wrong"),
  ("--flagfile=x", "unknown flag --flagfile"),
  ("--", "unknown flag --"),
  ("", "unknown argument ''"),
  ("--workdir", "--workdir needs a value"),
  ("--profile_steps=²,³", "FIRST,LAST"),
  (f"--profile_steps=1,{DIGITS}", "FIRST,LAST"),
  ("--profile_steps=", "FIRST,LAST"),
]


@pytest.mark.parametrize(
  ("word", "part"), WORDS, ids=[word[:60] for word, _ in WORDS]
)
def test_a_wrong_override(word, part, workdir, capfd):
  words = (TINY, f"--workdir={workdir}", word)
  code = 1 if part == "out of memory" else 2
  assert part in refused(train._run, words, capfd, code=code)


def test_the_next_flag_is_not_taken_as_a_value(workdir, capfd):
  words = (TINY, "--workdir", "--steps=3")
  assert "--workdir needs a value" in refused(train._run, words, capfd)


@pytest.mark.parametrize("seed", [2**31, 2**32 - 1])
def test_seeds_of_32_bits_are_all_different(seed):
  import jax

  one, other = (jax.random.key_data(jax.random.key(s)) for s in (seed, 0))
  assert (one != other).any()
  config = command_line.parse([TINY, f"--seed={seed}"]).config
  assert config.seed == seed


# Paths.

LONG = "/".join(["x" * 200] * 30)


def paths(tmp_path):
  """Returns wrong values of --workdir, and a part of the error of each."""
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "file").write_text("")
  (tmp_path / "loop").symlink_to("loop")
  return [
    ("", "--workdir is empty"),
    ("gs://bucket/run", "not a local path"),
    ("s3://bucket/run", "not a local path"),
    ("~nosuchuser/x", "there is no such user"),
    ("a\0b", "is not text"),
    ("\udcff", "is not text"),
    (LONG, "File name too long"),
    ("x" * 300, "File name too long"),
    ("/dev/full", "/dev/full"),
    ("/proc/x", "/proc/x"),
    (tmp_path / "pipe", "pipe"),
    (tmp_path / "file", "file"),
    (tmp_path / "file" / "x", "Not a directory"),
    (tmp_path / "loop", "symbolic links"),
  ]


def test_a_wrong_workdir(tmp_path, capfd):
  for path, part in paths(tmp_path):
    words = (TINY, f"--workdir={path}")
    assert part in refused(train._run, words, capfd), path
    for command in (generate, evaluate):
      words = (f"--workdir={path}", *["--prompt=a"] * (command is generate))
      refused(command._run, words, capfd)
    refused(report.main, [str(path)], capfd)


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert command_line.parse([TINY, "--workdir=~/x"]).workdir == str(
    tmp_path / "x"
  )


# The commands beside training.

GENERATE = [
  ("--top_k=99999999999", "--top-k is 99999999999"),
  ("--top_k=0", "--top-k is 0"),
  ("--top_k=²", "the value must be int"),
  ("--seed=99999999999999999999", "--seed is 99999999999999999999"),
  ("--seed=4294967296", "--seed is 4294967296"),
  ("--seed=-1", "--seed is -1"),
  ("--seed=" + DIGITS, "the value must be int"),
  ("--length=-1", "--length is -1"),
  ("--length=99999999999", "--length is 99999999999"),
  ("--length=", "the value must be int"),
  ("--temperature=nan", "--temperature is nan"),
  ("--temperature=inf", "--temperature is inf"),
  ("--temperature=1e-50", "--temperature is 1e-50"),
  ("--temperature=x", "the value must be float"),
  ("--top_p=nan", "--top-p is nan"),
  ("--top_p=0", "--top-p is 0"),
  ("--top_p=2", "--top-p is 2"),
  ("--step=²", "no checkpoint '²'"),
  ("--step=-1", "no checkpoint '-1'"),
  ("--step=", "no checkpoint ''"),
  ("--step=../12", "no checkpoint '../12'"),
  ("--step=012", "no checkpoint '012'"),
  ("--leng=3", "unknown flag --leng; did you mean --length?"),
  ("--nosuch", "unknown flag --nosuch"),
  ("stray", "unknown argument 'stray'"),
  ("--workdir", "--workdir needs a value"),
]

EVALUATE = [
  ("--batches=0", "--batches is 0"),
  ("--batches=99999999999999999999", "--batches is 99999999999999999999"),
  ("--batches=x", "the value must be int"),
  ("--split=foo", "split must be one of"),
  ("--split=", "split must be one of"),
  ("--step=²", "no checkpoint '²'"),
  ("--steps=3", "unknown flag --steps; did you mean --step?"),
]


@pytest.mark.parametrize(
  ("command", "word", "part"),
  [
    *((generate, word, part) for word, part in GENERATE),
    *((evaluate, word, part) for word, part in EVALUATE),
  ],
)
def test_a_wrong_flag(command, word, part, workdir, capfd):
  words = [f"--workdir={workdir}", word]
  if command is generate:
    words.insert(0, "--prompt=a")
  assert part in refused(command._run, words, capfd)


@pytest.mark.parametrize("command", [generate, evaluate])
def test_a_missing_flag_is_named(command, capfd):
  error = refused(command._run, [], capfd)
  assert "--workdir is missing" in error


def test_a_name_that_is_no_step(finished, tmp_path, capfd):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  os.mkdir(workdir / "checkpoints" / "²")
  for command, words in (
    (generate, [f"--workdir={workdir}", "--prompt=a"]),
    (evaluate, [f"--workdir={workdir}"]),
    (train, [TINY, f"--workdir={workdir}"]),
  ):
    assert "checkpoints/²" in refused(command._run, words, capfd)


@pytest.mark.parametrize(
  "run",
  [generate._run, evaluate._run, plan._run, report.main, train._run],
)
def test_help_is_no_mistake(run, capfd):
  assert main_with_errors(run, ["--help"]) == 0
  printed = capfd.readouterr()
  assert "train" in printed.out and not printed.err


PLAN = [
  (("--topology=",), "--topology= is unknown"),
  (("--topology=v5e:²x2",), "is unknown"),
  (("--topology=gpu:2x2",), "is unknown"),
  (("--topology=v5e:0x0",), "is unknown"),
  (("--topology=v5e:9999x9999",), "99980001 chips"),
  (("--topology",), "--topology needs a value"),
  (("--topology=v5e:2x2", "--json="), "--json is empty"),
  (("--topology=v5e:2x2", "--json=tests"), "--json=tests is a directory"),
  (("--topology=v5e:2x2", "--json=README.md/x"), "is not a directory"),
  (("--topology=v5e:2x2", "--json=gs://x/y"), "not a local path"),
  (("--topology=v5e:2x2", "--steps=0"), "config.steps is 0"),
]


@pytest.mark.parametrize(("words", "part"), PLAN)
def test_a_wrong_plan(words, part, capfd):
  assert part in refused(plan._run, (TINY, *words), capfd)


PROCESSES = [
  ("--coordinator_address=a:²", "must be HOST:PORT"),
  ("--coordinator_address=a:0", "must be HOST:PORT"),
  ("--coordinator_address=a:65536", "must be HOST:PORT"),
  ("--coordinator_address=a:" + DIGITS, "must be HOST:PORT"),
  ("--num_processes=" + "9" * 30, "--num-processes is 9"),
  ("--num_processes=²", "the value must be int"),
  ("--num_processes=0", "--num-processes is 0"),
  ("--process_id=-1", "--process-id is -1"),
  ("--process_id=" + DIGITS, "the value must be int"),
  ("--initialization_timeout=" + "9" * 30, "--initialization-timeout is 9"),
  ("--heartbeat_timeout_seconds=0", "--heartbeat-timeout-seconds is 0"),
]


@pytest.mark.parametrize(("word", "part"), PROCESSES)
def test_a_wrong_flag_of_processes(word, part, capfd):
  words = ["--coordinator_address=a:1", "--num_processes=2", "--process_id=0"]
  words = [TINY, "--distributed", *words, word]
  assert part in refused(train._run, words, capfd)
  with pytest.raises(UserError):
    distributed.parse(words)
