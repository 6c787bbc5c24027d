import dataclasses
import io
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmodels.models import LanguageModel
from tests.train import tiny
from train import __main__ as train_command
from train import checkpoint, evaluate
from train import generate as generate_lib
from train.api import load
from train.command import main_with_errors
from train.config import Sample
from train.continuing import Extras, Session
from train.errors import UserError
from train.generate import as_text, generate, sample_token
from train.loop import run
from train.metrics import read_metrics


def test_greedy_text_is_what_teacher_forcing_predicts(finished):
  model, params = tiny.Model(), finished[1].params
  prompt = [256, 5, 6, 7]
  tokens = list(
    generate(model, {"params": params}, prompt, length=9, temperature=0)
  )
  assert len(tokens) == 9
  row = np.array([prompt + tokens])
  logits, _ = jax.jit(model.apply)({"params": params}, row)
  predicted = np.argmax(np.asarray(logits[0]), axis=-1)
  assert tokens == list(predicted[len(prompt) - 1 : -1])


def test_stepping_gives_the_logits_of_teacher_forcing(finished):
  model, params = tiny.Model(), finished[1].params
  row = np.array([[256, 5, 6, 7, 9, 30, 2]])
  apply = jax.jit(model.apply)
  whole = np.asarray(apply({"params": params}, row)[0])
  state = model.init_state(1)
  for i in range(row.shape[1]):
    one, state = apply({"params": params}, row[:, i : i + 1], state)
    one = np.asarray(one)
    np.testing.assert_allclose(one[0, 0], whole[0, i], rtol=1e-5, atol=1e-6)


class Shifted(nn.Module):
  """The tiny model, with logits shifted by a statistic that training keeps."""

  vocab_size: int = tiny.VOCAB

  @nn.compact
  def __call__(self, tokens, state=None, *, segment_ids=None):
    inner = tiny.Model(name="inner")
    logits, state = inner(tokens, state, segment_ids=segment_ids)
    shift = self.variable("stats", "shift", jnp.zeros, (self.vocab_size,))
    if self.is_mutable_collection("stats"):
      shift.value += jnp.arange(self.vocab_size, dtype=jnp.float32) % 7
    return logits + shift.value[None, None], state

  def init_state(self, batch_size):
    return jnp.zeros((batch_size, tiny.Model.width))


def test_samples_use_all_variables_of_a_model(tmp_path, capsys):
  sample = Sample(prompt="ab", length=6, temperature=0.0)
  config = dataclasses.replace(
    tiny.get_config(), model=Shifted(), steps=1, sample=sample
  )
  result = run(config, str(tmp_path))
  assert np.any(result.variables["stats"]["shift"])
  saved = load(str(tmp_path), trust=[__name__, "tests.train.tiny"]).variables
  for a, b in zip(
    *map(jax.tree.leaves, (saved, result.variables)), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  tokens, apply = [256, *b"ab"], jax.jit(config.model.apply)
  for _ in range(6):
    # The model reads no later tokens: one program serves every length.
    row = np.array([tokens + [0] * (9 - len(tokens))])
    logits = np.asarray(apply(saved, row)[0])
    tokens.append(int(np.argmax(logits[0, len(tokens) - 1])))
  text = "".join(as_text(config.data.open("train"), tokens[3:]))
  capsys.readouterr()
  train_command._show_sample(config, result.variables)
  assert capsys.readouterr().out.endswith(f"{text}\n")
  words = ("--prompt=ab", "--length=6", "--temperature=0")
  trust = (f"--trust={__name__}", "--trust=tests.train.tiny")
  words = (f"--workdir={tmp_path}", *words, *trust)
  assert main_with_errors(generate_lib._run, words) == 0
  assert capsys.readouterr().out == f"{text}\n"


def test_a_seed_repeats_and_another_differs(finished):
  def draw(seed):
    variables = finished[1].variables
    stream = generate(tiny.Model(), variables, [256], length=12, seed=seed)
    return list(stream)

  assert draw(1) == draw(1)
  assert draw(1) != draw(2)


def shares(draws=4000, **options):
  """Returns how often each of five tokens is drawn, and the probabilities."""
  p = np.array([0.1, 0.4, 0.05, 0.2, 0.25])
  keys = jax.random.split(jax.random.key(0), draws)
  logits = jnp.log(jnp.asarray(p, jnp.float32))
  draw = jax.jit(jax.vmap(lambda k: sample_token(logits, k, **options)))
  tokens = draw(keys)
  return np.bincount(tokens, minlength=5) / draws, p


def assert_close(found, wanted, draws=4000):
  # Five standard deviations of a binomial share.
  bound = 5 * np.sqrt(wanted * (1 - wanted) / draws)
  assert (np.abs(found - wanted) <= bound).all(), (found, wanted)


def test_plain_sampling_follows_the_probabilities():
  found, p = shares()
  assert_close(found, p)


def test_temperature_sharpens():
  found, p = shares(temperature=0.5)
  assert_close(found, p**2 / (p**2).sum())
  assert (
    sample_token(jnp.log(jnp.asarray(p)), jax.random.key(0), temperature=0) == 1
  )


def test_top_k_keeps_the_likeliest_in_proportion():
  found, p = shares(top_k=2)
  kept = np.where(p >= 0.25, p, 0)
  assert_close(found, kept / kept.sum())
  found, p = shares(top_k=99)
  assert_close(found, p)


@pytest.mark.parametrize(
  ("top_p", "kept"),
  [(0.01, [1]), (0.5, [1, 4]), (0.7, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, kept):
  found, p = shares(top_p=top_p)
  wanted = np.zeros(5)
  wanted[kept] = p[kept] / p[kept].sum()
  assert_close(found, wanted)


def test_ties_do_not_widen_top_k():
  keys = jax.random.split(jax.random.key(0), 200)
  tokens = jax.vmap(lambda k: sample_token(jnp.zeros(6), k, top_k=2))(keys)
  assert len(np.unique(tokens)) == 2


def test_a_character_is_yielded_when_it_is_complete():
  rows = tiny.Data().open("validation")
  content = "é€".encode()
  pieces = list(as_text(rows, [*content, 256, 0xFF, 65, 0xC3]))
  assert pieces == ["é", "€", "\ufffd", "A", "\ufffd"]


def test_tokens_are_yielded_as_they_are_drawn(finished):
  stream = generate(tiny.Model(), finished[1].variables, [256], length=10**9)
  assert 0 <= next(stream) < tiny.VOCAB
  assert 0 <= next(stream) < tiny.VOCAB


def test_an_empty_prompt_is_an_error(finished):
  with pytest.raises(UserError, match="prompt is empty"):
    next(generate(tiny.Model(), finished[1].variables, [], length=1))


def generate_command(finished, *words):
  words = (f"--workdir={finished[0]}", "--length=8", *words)
  return main_with_errors(generate_lib._run, words)


def test_the_command_reads_the_prompt_from_standard_input(
  finished, capsys, monkeypatch
):
  assert generate_command(finished, "--prompt=abc", "--seed=3") == 0
  given = capsys.readouterr().out
  stdin = types.SimpleNamespace(buffer=io.BytesIO(b"abc"), isatty=lambda: False)
  monkeypatch.setattr("sys.stdin", stdin)
  assert generate_command(finished, "--seed=3") == 0
  assert capsys.readouterr().out == given
  assert generate_command(finished, "--prompt=abd", "--seed=3") == 0
  assert capsys.readouterr().out != given


@pytest.mark.parametrize(
  ("word", "part"),
  [
    ("--step=5", "no checkpoint '5'"),
    ("--top_k=0", "--top-k is 0"),
    ("--temperature=-1", "temperature is -1"),
    ("--workdir=nowhere", "no checkpoint in nowhere"),
  ],
)
def test_wrong_commands_end_in_one_line(finished, capsys, word, part):
  assert generate_command(finished, "--prompt=a", word) == 2
  error = capsys.readouterr().err
  assert part in error and error.count("\n") == 1


def test_evaluate_repeats_the_figures_of_the_run(finished, capsys):
  words = (f"--workdir={finished[0]}",)
  assert main_with_errors(evaluate._run, words) == 0
  printed = capsys.readouterr().out
  line = read_metrics(finished[0])[-1]
  assert line["split"] == "validation" and line["step"] == 12
  assert f"{line['loss']:.6g}" in printed
  assert f"{line['tokens']:.6g}" in printed


@pytest.mark.parametrize(
  ("word", "part"),
  [("--batches=0", "--batches is 0"), ("--split=test", "split must be one of")],
)
def test_evaluate_names_what_is_wrong(finished, capsys, word, part):
  words = (f"--workdir={finished[0]}", word)
  assert main_with_errors(evaluate._run, words) == 2
  error = capsys.readouterr().err
  assert part in error and error.count("\n") == 1


def test_validation_counts_every_token_once(finished):
  rows = tiny.Data().open("validation")
  assert len(rows) % 8
  total = sum(rows[i]["weights"].sum() for i in range(len(rows)))
  assert finished[1].metrics["targets"] == total
  assert finished[1].metrics["tokens"] == len(rows) * 12
  row = {k: np.stack([rows[i][k] for i in range(11)]) for k in rows[0]}
  logits, _ = jax.jit(tiny.Model().apply)(
    {"params": finished[1].params},
    row["inputs"],
    segment_ids=row["segment_ids"],
  )
  losses = -np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits)), row["targets"][..., None], -1
  )[..., 0]
  mean = (losses * row["weights"]).sum() / total
  assert math.isclose(finished[1].metrics["loss"], mean, rel_tol=1e-5)


def test_best_is_the_checkpoint_of_the_lowest_loss(finished):
  best = checkpoint.load(finished[0], "best", pytest.fail)
  validation = [
    line
    for line in read_metrics(finished[0])
    if line["split"] == "validation" and line["step"] in (9, 12)
  ]
  assert best.step == min(validation, key=lambda line: line["loss"])["step"]


def test_generation_accepts_a_state_whose_zeros_share_memory():
  model = LanguageModel(
    vocab_size=5,
    width=8,
    depth=1,
    mixers=("sliding_attention",),
    mixer_options={"sliding_attention": {"heads": 2, "window": 4}},
    mlp="none",
  )
  init = jax.jit(model.init)
  variables = init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  tokens = list(generate(model, variables, [1, 2], length=7, temperature=0.0))
  whole = jnp.array([[1, 2, *tokens]], jnp.int32)
  logits, _ = jax.jit(model.apply)(variables, whole)
  assert tokens == list(np.argmax(logits[0, 1:-1], axis=-1))


def printed(finished, capsys, *words):
  assert generate_command(finished, *words) == 0
  return capsys.readouterr().out


def test_several_prompts_give_a_line_of_json_each(finished, capsys, tmp_path):
  (tmp_path / "prompts").write_text("abc\nde\n")
  given = printed(finished, capsys, "--prompt=abc", "--prompt=de")
  rows = [json.loads(line) for line in given.splitlines()]
  assert [row["prompt"] for row in rows] == ["abc", "de"]
  assert all(len(r["tokens"]) == len(r["log_probs"]) == 8 for r in rows)
  file = f"--prompt-file={tmp_path / 'prompts'}"
  assert printed(finished, capsys, file) == given
  # The second row alone, with its seed.
  alone = printed(finished, capsys, "--prompt=de", "--seed=1")
  assert alone == rows[1]["text"] + "\n"


def test_a_state_continues_the_text_and_serves_as_a_prefix(
  finished, capsys, tmp_path
):
  path = tmp_path / "state"
  save, again = f"--save-state={path}", f"--load-state={path}"
  whole = printed(finished, capsys, "--prompt=abc", "--log-probs")
  printed(finished, capsys, "--prompt=abc", "--length=3", save)
  rest = printed(finished, capsys, again, "--length=5", "--log-probs")
  tokens = [json.loads(line)["tokens"] for line in (whole, rest)]
  assert tokens[0][3:] == tokens[1]
  printed(finished, capsys, "--prompt=ab", "--length=0", save)
  pair = printed(finished, capsys, again, "--prompt=c", "--prompt=d")
  text = [json.loads(line)["text"] for line in pair.splitlines()]
  assert text[0] == json.loads(whole)["text"]
  assert printed(finished, capsys, "--prompt=abd", "--seed=1") == text[1] + "\n"


def test_a_stop_string_ends_the_text(finished, capsys):
  words = ("--prompt=abc", "--temperature=0", "--length=30")
  whole = printed(finished, capsys, *words)
  # Bytes that are no text are printed as other characters.
  stop = next(letter for letter in whole[1:] if letter.isascii())
  cut = printed(finished, capsys, *words, f"--stop={stop}", "--stop=zzz")
  assert stop != "\n" and cut == whole[: whole.index(stop)] + "\n"


@pytest.mark.parametrize(
  ("words", "part"),
  [
    (("--min-p=2",), "--min-p is 2.0, but must be 0 to 1"),
    (("--repetition-penalty=0",), "--repetition-penalty is 0.0"),
    (("--stop=",), "--stop is empty"),
    (("--load-state={}/none",), "cannot read"),
    (("--load-state={}/wrong",), "is no state of a decoder"),
    (("--save-state={}/none/x",), "cannot write"),
    (("--prompt-file=x",), "not both"),
  ],
)
def test_wrong_settings_end_in_one_line(
  finished, capsys, tmp_path, words, part
):
  (tmp_path / "wrong").write_bytes(b"not a state")
  words = [word.format(tmp_path) for word in words]
  assert generate_command(finished, "--prompt=a", *words) == 2
  error = capsys.readouterr().err
  assert part in error and error.count("\n") == 1


def test_caches_have_room_for_the_text_and_not_for_all_that_a_model_allows():
  model = LanguageModel(
    vocab_size=257,
    width=8,
    depth=1,
    mixers=(("softmax_attention", {"heads": 1, "max_length": 100_000}),),
  )
  config = dataclasses.replace(tiny.get_config(), model=model)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))

  def session(most):
    extras = Extras(max_length=most)
    return Session(config, variables, Sample(length=4), None, extras)

  (cache, _), _ = session(16)._decoder.shapes(1).model[0]
  assert cache.k.shape[1] == 15  # The tokens before the last one.
  with pytest.raises(ValueError, match=r"cannot read 23 tokens.*max_length"):
    session(16).stream([b"x" * 19], 0)
  session(23).stream([b"x" * 19], 0)
