"""States in files, and the memory of reading a long prompt."""

import json
import pickle

import jax
import numpy as np
import pytest

from jaxmodels.models import LanguageModel
from jaxmodels.models.decode import (
  Decoder,
  Sampling,
  StateFileError,
  load_state,
  save_state,
)
from jaxmodels.models.decode.stream import collect

PROMPTS, SEEDS = [[1, 2, 3], [4]], [7, 8]


@pytest.fixture(scope="module")
def decoder():
  return made(0)


def made(seed, **fields):
  model = LanguageModel(
    vocab_size=11, width=8, depth=1, mixers=("mamba2",), mlp="none", **fields
  )
  model = model.clone(mixer_options={"mamba2": {"head_width": 8}})
  tokens = np.zeros((1, 1), np.int32)
  variables = jax.jit(model.init)(jax.random.key(seed), tokens)
  return Decoder(model, variables, Sampling(), chunk_size=1, piece=8)


@pytest.fixture
def path(decoder, tmp_path):
  stream = decoder.stream(decoder.start(PROMPTS, SEEDS), 4)
  collect(stream)
  save_state(tmp_path / "state", decoder, stream.state, "runs/x, step 3")
  return tmp_path / "state"


def test_a_saved_state_continues_as_if_uncut(decoder, path):
  whole = decoder.generate(PROMPTS, 9, SEEDS)
  rest = collect(decoder.stream(load_state(path, decoder), 5))
  assert [r.tokens for r in rest] == [r.tokens[4:] for r in whole]
  assert [x.name for x in path.parent.iterdir()] == ["state"]


def test_a_prefix_is_read_once_for_many_continuations(decoder, tmp_path):
  save_state(tmp_path / "prefix", decoder, decoder.start([[1, 2, 3, 4]]))
  state = decoder.take(load_state(tmp_path / "prefix", decoder), [0, 0])
  state = decoder.read(decoder.reseed(state, SEEDS), [[5, 6], []])
  found = collect(decoder.stream(state, 5))
  wanted = decoder.generate([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4]], 5, SEEDS)
  assert [r.tokens for r in found] == [r.tokens for r in wanted]


def test_another_checkpoint_is_refused(path):
  match = "belongs to another model or checkpoint: runs/x, step 3"
  with pytest.raises(StateFileError, match=match):
    load_state(path, made(1))


def change(path, edit):
  content = path.read_bytes()
  size = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + size])
  edit(header)
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def entry(**fields):
  return lambda header: header[".position"].update(fields)


@pytest.mark.parametrize(
  ("edit", "match"),
  [
    (entry(shape=[3]), "entry .position must be .*got"),
    (entry(dtype="F32"), "entry .position must be .*got"),
    (entry(data_offsets=[-8, 0]), "damaged or cut off at the entry .position"),
    (entry(data_offsets=[0, 10**12]), "damaged or cut off at the entry"),
    (entry(data_offsets="all"), "damaged or cut off at the entry"),
    (lambda header: header.pop(".seen"), "entry .seen must be"),
    (lambda header: header.pop(".token"), "no entry of the last tokens"),
    (lambda header: header.update({".token": {"shape": [-1]}}), "no entry of"),
    (lambda header: header.pop("__metadata__"), "is no state of a decoder"),
  ],
)
def test_a_damaged_file_is_named_in_one_line(decoder, path, edit, match):
  change(path, edit)
  with pytest.raises(StateFileError, match=match) as caught:
    load_state(path, decoder)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "content",
  [b"", b"abc", b"\xff" * 64, pickle.dumps([1, 2]), b"\2" + b"\0" * 7 + b"[]"],
)
def test_other_files_are_refused_and_not_run(decoder, tmp_path, content):
  (tmp_path / "state").write_bytes(content)
  with pytest.raises(StateFileError, match="is no state of a decoder"):
    load_state(tmp_path / "state", decoder)


def test_a_cut_off_file_is_refused(decoder, path):
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(StateFileError, match="cut off"):
    load_state(path, decoder)


def test_reading_a_prompt_takes_the_memory_of_a_chunk(decoder):
  """The compiled program reads a chunk, whatever the length of the prompt."""
  sizes = []

  def noted(variables, state, tokens, take, repeats):
    sizes.append(tokens.shape)
    return state

  bare = Decoder(decoder.model, decoder.variables, chunk_size=16)
  bare._read_program = noted
  rng = np.random.default_rng(0)
  for length in (129, 100_001):
    sizes.clear()
    bare.start([rng.integers(0, 11, length).tolist()])
    assert set(sizes) == {(8, 1, 16)}
  shapes = bare.shapes(1).model
  take = jax.ShapeDtypeStruct((8, 1), np.int32)

  def memory(program, *arguments):
    compiled = jax.jit(program).lower(bare.variables, shapes, *arguments)
    return compiled.compile().memory_analysis().temp_size_in_bytes

  def whole(variables, state, tokens):
    return bare.model.apply(variables, tokens, state)[1]

  tokens = jax.ShapeDtypeStruct((8, 1, 16), np.int32)
  chunk = memory(bare._read, tokens, take, np.int32(8))
  once = memory(whole, jax.ShapeDtypeStruct((1, 4096), np.int32))
  assert 8 * chunk < once
