"""A model of transformers, trained here on text, and read by transformers."""

import json

import jax
import numpy as np
import pytest

import train
from tests.peers.compare import load
from tests.peers.interop.parity import error
from train.config import AdamW, Config, Pretrained, Sample
from train.data import Text
from train.evaluate import _run as evaluate
from train.export import _run as export
from train.generate import _run as generate

pytestmark = pytest.mark.slow

TEXT = ["one two three four", "two four six eight", "three six nine twelve"]


@pytest.fixture
def published(tmp_path):
  """A folder as transformers and tokenizers write it, and files of text."""
  transformers, tokenizers = load("transformers"), load("tokenizers")
  load("torch").set_num_threads(1)
  names = {"<s>": 0, "?": 1}
  for word in " ".join(TEXT).split():
    names.setdefault(word, len(names))
  inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, "?"))
  inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  config = transformers.Lfm2Config(
    vocab_size=len(names),
    hidden_size=16,
    intermediate_size=24,
    block_multiple_of=8,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_hidden_layers=2,
    layer_types=["conv", "full_attention"],
    bos_token_id=0,
  )
  folder = tmp_path / "published"
  transformers.Lfm2ForCausalLM(config).save_pretrained(folder)
  inner.save(str(folder / "tokenizer.json"))
  (tmp_path / "text").mkdir()
  for number in range(12):
    text = " ".join(TEXT[(number + i) % 3] for i in range(6))
    (tmp_path / "text" / f"{number}.txt").write_text(text)
  return folder


# The words of the model are random, and LoRA leaves their table as it is.
@pytest.mark.parametrize(("rank", "bits"), [(None, 1.5), (4, 3.2)])
def test_text_is_learnt_and_the_model_goes_back(
  rank, bits, published, tmp_path, capsys
):
  data = Text(length=16, path=str(tmp_path / "text"), held_out=0.2)
  run = train.run(
    Config(
      model=Pretrained(lora_rank=rank),
      data=data,
      optimizer=AdamW(learning_rate=0.02, warmup_steps=5, weight_decay=0.0),
      steps=40,
      batch_size=4,
      start=str(published),
      sample=Sample(length=0),
    ),
    tmp_path / "run",
  )
  # The tokenizer beside the checkpoint was used: one token per word.
  assert run.config.data.tokenizer == str(published)
  assert run.metrics["bits_per_token"] < bits
  to = tmp_path / "to"
  assert export([str(tmp_path / "run"), "--to", str(to)]) == 0
  transformers = load("transformers")
  theirs = transformers.AutoModelForCausalLM.from_pretrained(to)
  tokens = np.arange(12).reshape(2, 6) % 10
  torch = load("torch")
  with torch.no_grad():
    wanted = theirs(torch.tensor(tokens)).logits.numpy()
  ours, _ = jax.jit(run.model.apply)(run.variables, tokens)
  assert error(ours, wanted) < 5e-5
  capsys.readouterr()
  prompt = ["--prompt=two four", "--length=2", "--temperature=0"]
  assert generate([f"--workdir={to}", *prompt]) == 0
  if rank is None:
    assert capsys.readouterr().out.strip() == "sixeight"
  own = [f"--data.mine.path={data.path}", "--data.mine.held-out=0.2"]
  assert evaluate([str(to), "--no-own", "--lengths=16", *own]) == 0
  (row,) = json.loads((to / "evaluation.json").read_text())["rows"]
  found, wanted = row["metrics"]["bits_per_token"], run.metrics
  assert found == pytest.approx(wanted["bits_per_token"], rel=1e-4)
