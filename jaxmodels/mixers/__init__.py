"""Sequence mixers: parameters and projections around one op each.

A sequence mixer is `mixer(x, state=None, *, segment_ids=None) -> (y, state)`
with x [B, L, D], and `init_state(batch_size)` its zero state, which is the
same as None. The state is an explicit pytree; what a call returns has the
structure, shapes and dtypes of the zero state. Fields are the configuration.
`Mixer` is the base class: it has the fields and steps that mixers share, and
makes the zero state. Any Linen module that keeps the contract is a mixer too:
it needs the fields that the model sets. Models check the contract while they
are traced: see `contract`.

`MIXERS` names them; the backbone takes them by name. To add one, write its
equation in a file like `gla.py`, name it here, and write its record in
`jaxmodels.testing.examples.mixers`.
"""

from collections.abc import Callable

import flax.linen as nn

from jaxmodels.mixers.bidirectional import LION, Bidirectional
from jaxmodels.mixers.bilinear_rnn import BilinearRNN
from jaxmodels.mixers.cross_scan import CrossScan, SelectiveScan2D
from jaxmodels.mixers.delta_net import (
  KDA,
  DeltaNet,
  GatedDeltaNet,
  GatedDeltaNet2,
)
from jaxmodels.mixers.delta_product import DeltaProduct
from jaxmodels.mixers.fsmn import FSMN
from jaxmodels.mixers.galerkin import Galerkin
from jaxmodels.mixers.gated_slot import GatedSlotAttention
from jaxmodels.mixers.gla import GLA
from jaxmodels.mixers.hgrn2 import HGRN2
from jaxmodels.mixers.hopfield import Hopfield
from jaxmodels.mixers.latent_attention import LatentAttention
from jaxmodels.mixers.lightning import LightningAttention
from jaxmodels.mixers.linear_attention import Based, LinearAttention
from jaxmodels.mixers.linoss import LinOSS
from jaxmodels.mixers.log_linear import LogLinearAttention
from jaxmodels.mixers.lru import LRU
from jaxmodels.mixers.mamba import Mamba
from jaxmodels.mixers.mamba2 import Mamba2
from jaxmodels.mixers.mamba3 import Mamba3
from jaxmodels.mixers.mesa import MesaNet
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.mixture_of_heads import MixtureOfHeads
from jaxmodels.mixers.mixture_of_memories import MixtureOfMemories
from jaxmodels.mixers.mlstm import MLSTM, MLSTMBlock
from jaxmodels.mixers.neighborhood import (
  HaloAttention,
  NeighborhoodAttention,
)
from jaxmodels.mixers.parallel import Parallel
from jaxmodels.mixers.polyline import PolylineAttention
from jaxmodels.mixers.retnet import RetNet
from jaxmodels.mixers.rg_lru import RGLRU
from jaxmodels.mixers.rwkv4 import RWKV4
from jaxmodels.mixers.rwkv6 import RWKV6
from jaxmodels.mixers.rwkv7 import RWKV7
from jaxmodels.mixers.s4 import LSSL, S4, S4D
from jaxmodels.mixers.s5 import S5
from jaxmodels.mixers.short_convolution import GatedConvolution
from jaxmodels.mixers.soft import Soft
from jaxmodels.mixers.softmax_attention import (
  SlidingAttention,
  SoftmaxAttention,
)
from jaxmodels.mixers.transnormer import DiagAttention, NormAttention
from jaxmodels.mixers.ttt_linear import TTTLinear
from jaxmodels.mixers.vig import ViG

__all__ = [
  "FSMN",
  "GLA",
  "HGRN2",
  "KDA",
  "LION",
  "LRU",
  "LSSL",
  "MIXERS",
  "MLSTM",
  "RGLRU",
  "RWKV4",
  "RWKV6",
  "RWKV7",
  "S4",
  "S4D",
  "S5",
  "Based",
  "Bidirectional",
  "BilinearRNN",
  "CrossScan",
  "DeltaNet",
  "DeltaProduct",
  "DiagAttention",
  "Galerkin",
  "GatedConvolution",
  "GatedDeltaNet",
  "GatedDeltaNet2",
  "GatedSlotAttention",
  "HaloAttention",
  "Hopfield",
  "LatentAttention",
  "LightningAttention",
  "LinOSS",
  "LinearAttention",
  "LogLinearAttention",
  "MLSTMBlock",
  "Mamba",
  "Mamba2",
  "Mamba3",
  "MesaNet",
  "Mixer",
  "MixtureOfHeads",
  "MixtureOfMemories",
  "NeighborhoodAttention",
  "NormAttention",
  "Parallel",
  "PolylineAttention",
  "RetNet",
  "SelectiveScan2D",
  "SlidingAttention",
  "Soft",
  "SoftmaxAttention",
  "TTTLinear",
  "ViG",
]

MIXERS: dict[str, Callable[..., nn.Module]] = {
  "gla": GLA,
  "hgrn2": HGRN2,
  "delta_net": DeltaNet,
  "gated_deltanet": GatedDeltaNet,
  "gated_deltanet2": GatedDeltaNet2,
  "kda": KDA,
  "delta_product": DeltaProduct,
  "bilinear_rnn": BilinearRNN,
  "mixture_of_memories": MixtureOfMemories,
  "log_linear": LogLinearAttention,
  "mesa": MesaNet,
  "ttt_linear": TTTLinear,
  "mamba": Mamba,
  "linear_attention": LinearAttention,
  "based": Based,
  "transnormer": NormAttention,
  "diag_attention": DiagAttention,
  "lightning": LightningAttention,
  "gated_slot": GatedSlotAttention,
  "mamba2": Mamba2,
  "mamba3": Mamba3,
  "mlstm": MLSTM,
  "mlstm_block": MLSTMBlock,
  "retnet": RetNet,
  "rwkv4": RWKV4,
  "rwkv6": RWKV6,
  "rwkv7": RWKV7,
  "lssl": LSSL,
  "s4": S4,
  "s4d": S4D,
  "s5": S5,
  "linoss": LinOSS,
  "lru": LRU,
  "rg_lru": RGLRU,
  "short_convolution": GatedConvolution,
  "fsmn": FSMN,
  "neighborhood_attention": NeighborhoodAttention,
  "halo_attention": HaloAttention,
  "mixture_of_heads": MixtureOfHeads,
  "hopfield": Hopfield,
  "galerkin": Galerkin,
  "soft": Soft,
  "lion": LION,
  "polyline_attention": PolylineAttention,
  "bidirectional": Bidirectional,
  "cross_scan": CrossScan,
  "selective_scan_2d": SelectiveScan2D,
  "vig": ViG,
  "parallel": Parallel,
  "softmax_attention": SoftmaxAttention,
  "latent_attention": LatentAttention,
  "sliding_attention": SlidingAttention,
}


def __dir__() -> list[str]:
  return __all__
