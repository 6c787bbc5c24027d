"""Two generated voices in one signal, separated by masks.

python -m train configs/speech/separation.py --workdir runs/speech-separation

Expect an improvement of SI-SDR over the mixture of 6.9 dB on 200 held-out
mixtures (6.2 to 7.2 over 3 seeds), after two minutes of one core. On the same
mixtures (`python -m benchmarks.voices`):

  estimates                                              SI-SDR improvement
  the mixture itself, twice                                          0.0 dB
  a comb at the strongest pitch of each window, and the rest        -1.7 dB
  this config, 77,664 parameters                                     6.9 dB
  the ideal ratio mask of the true voices                           11.4 dB

The last one knows the voices, and shows what masks of magnitudes can reach. The
comb finds harmonics, but not which voice they belong to in the next window.
After half of the steps seed 0 has 6.3 dB.
"""

from jaxmodels.mixers import FSMN, Bidirectional
from jaxmodels.models import GatedAttention, Separator
from train.config import AdamW, Config, Sample
from train.data.tasks import VoiceMixtures
from train.losses import Separation


def get_config() -> Config:
  """Gated attention and FSMN memories in turn, two of each."""
  return Config(
    model=Separator(
      width=48,
      depth=4,
      mixers=(
        GatedAttention(48, kernel_width=4),
        Bidirectional(48, mixer=FSMN(48, layers=2, kernel_width=6)),
      ),
      mlp="none",
      kernel_width=64,
      stride=32,
    ),
    data=VoiceMixtures(validation_examples=200),
    loss=Separation(),
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=50),
    batch_size=8,
    steps=600,
    eval_every=300,
    checkpoint_every=600,
    best_metric="si_sdr_improvement",
    sample=Sample(length=0),
  )
