"""A config of a hybrid that runs on any mesh; its steps can be extended."""

from jaxmodels.models import LanguageModel
from tests.train import tiny
from train.config import AdamW, Config, Cosine, Sample


def get_config():
  options = {
    "mamba2": {"head_width": 8, "state_width": 4},
    "sliding_attention": {"heads": 2, "window": 5},
  }
  return Config(
    model=LanguageModel(
      tiny.VOCAB, 16, len(options), tuple(options), options, mlp="mlp"
    ),
    data=tiny.Data(length=16, document=7),
    optimizer=AdamW(
      learning_rate=0.01, warmup_steps=4, schedule=Cosine(end_step=20)
    ),
    steps=8,
    batch_size=8,
    log_every=1,
    eval_every=4,
    checkpoint_every=4,
    sample=Sample(length=0),
  )
