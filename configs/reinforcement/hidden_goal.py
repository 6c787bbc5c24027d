"""Finds a hidden goal on a ring in one trial, and goes there in five others.

The claim: a recurrent policy learns to adapt to a hidden task within an episode
(RL^2, Duan et al. 2016, arXiv:1611.02779); S5 does so too (Lu et al. 2023,
arXiv:2303.03982).

python -m train.reinforcement configs/reinforcement/hidden_goal.py

Expect returns of 4.5 in the first trial and 6.4 in the last one (three seeds:
4.49 to 4.51, and 6.44 each), which are optimal for the evaluated goals. Three
seeds in one process took 22 seconds of processor time, most of it compilation
(with XLA's flags --xla_cpu_use_fusion_emitters=false and
--xla_cpu_parallel_codegen_split_count=1). A random policy has 0.76 in each
trial. An optimal one has 4.5 and then 6.5 in the mean over all goals.
"""

from jaxmodels.models import RecurrentPolicy
from train.reinforcement import HiddenGoal, ReinforcementConfig


def get_config() -> ReinforcementConfig:
  """One layer of S5."""
  environment = HiddenGoal(places=9, trials=6, trial_steps=8)
  return ReinforcementConfig(
    model=RecurrentPolicy(actions=3, width=32, depth=1, mixers=("s5",)),
    environment=environment,
    rollout_steps=environment.horizon,
    updates=60,
    eval_every=10,
  )
