"""Generation: prompts in, tokens out, from a state that can be saved.

  decoder = Decoder(model, variables, Sampling(temperature=0.8, top_p=0.95))
  for row in decoder.generate([[1, 2, 3], [4]], length=20, seeds=[0, 1]):
    print(row.tokens, row.log_probs, row.reason)

`Decoder.start` reads prompts, `Decoder.stream` draws tokens piece by piece,
`save_state` and `load_state` keep what was read in a file, and `Speculative`
lets a smaller model propose tokens.
"""

from jaxmodels.models.decode.decoder import Decoder
from jaxmodels.models.decode.files import (
  StateFileError,
  identity,
  load_state,
  save_state,
)
from jaxmodels.models.decode.sampling import Sampling, sample_token
from jaxmodels.models.decode.speculative import Speculative
from jaxmodels.models.decode.state import DecodeState
from jaxmodels.models.decode.stream import Generated, Piece, Stream

__all__ = [
  "DecodeState",
  "Decoder",
  "Generated",
  "Piece",
  "Sampling",
  "Speculative",
  "StateFileError",
  "Stream",
  "identity",
  "load_state",
  "sample_token",
  "save_state",
]


def __dir__() -> list[str]:
  return __all__
