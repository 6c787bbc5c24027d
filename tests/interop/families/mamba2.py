TINY = [
  {
    "model_type": "mamba2",
    "conv_kernel": 4,
    "expand": 2,
    "head_dim": 8,
    "hidden_size": 24,
    "layer_norm_epsilon": 1e-5,
    "n_groups": 2,
    "num_heads": 6,
    "num_hidden_layers": 3,
    "state_size": 16,
    "tie_word_embeddings": False,
    "use_bias": False,
    "vocab_size": 50,
  }
]


def published(width, depth):
  return {
    "model_type": "mamba2",
    "hidden_size": width,
    "n_groups": 1,
    "num_heads": 2 * width // 64,
    "num_hidden_layers": depth,
    "tie_word_embeddings": True,
    "vocab_size": 50288,
  }


PUBLISHED = [
  (published(768, 24), 128_989_632),
  (published(1024, 48), 368_346_624),
  (published(2560, 64), 2_702_599_680),
]
