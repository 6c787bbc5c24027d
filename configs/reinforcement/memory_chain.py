"""Remembers a bit for up to 64 steps, and answers at the end of the episode.

The task is "memory length" of bsuite (Osband et al. 2020, arXiv:1908.03568).
The claim: S5 with resets inside its scan solves it (Lu et al. 2023, "Structured
State Space Models for In-Context Reinforcement Learning", arXiv:2303.03982).

python -m train.reinforcement configs/reinforcement/memory_chain.py

Expect the return 1 at length 64 with each of three seeds, after 100 updates. A
random policy has 0, and an optimal one 1.
"""

from jaxmodels.models import RecurrentPolicy
from train.reinforcement import MemoryChain, ReinforcementConfig


def get_config() -> ReinforcementConfig:
  """One layer of S5, whose state starts anew in each episode."""
  return ReinforcementConfig(
    model=RecurrentPolicy(actions=2, width=32, depth=1, mixers=("s5",)),
    environment=MemoryChain(shortest=2, longest=64),
    rollout_steps=64,
    updates=100,
    eval_every=10,
  )
