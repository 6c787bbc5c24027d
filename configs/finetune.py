"""Starts from a published checkpoint, and trains on text of your own.

python -m train configs/finetune.py --start CHECKPOINT --data.path TEXT
python -m train.export runs/finetune --to FOLDER

CHECKPOINT is a folder in the Hugging Face layout, of a family that
`jaxmodels.interop` knows; TEXT is a file or a folder of text. The tokenizer of
the checkpoint is used. By default only low-rank changes (LoRA) train;
`--model.lora-rank None` trains all parameters, with a much lower learning rate,
such as `--optimizer.learning-rate 1e-5`. The second command saves the model in
the same layout, with the changes in its matrices.
"""

from train.config import AdamW, Config, Pretrained, Sample
from train.data import Text


def get_config() -> Config:
  """Low-rank changes of all matrices, in rows of 512 tokens."""
  return Config(
    model=Pretrained(lora_rank=8),
    data=Text(length=512),
    optimizer=AdamW(learning_rate=2e-4, warmup_steps=20, weight_decay=0.0),
    steps=200,
    batch_size=8,
    eval_every=50,
    checkpoint_every=50,
    sample=Sample(prompt="The ", length=100),
  )
