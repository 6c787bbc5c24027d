TINY = [
  {
    "model_type": "mamba",
    "conv_kernel": 3,
    "expand": 2,
    "hidden_act": "gelu",
    "hidden_size": 20,
    "intermediate_size": 36,
    "layer_norm_epsilon": 1e-4,
    "num_hidden_layers": 2,
    "state_size": 5,
    "tie_word_embeddings": False,
    "time_step_rank": 3,
    "use_bias": True,
    "use_conv_bias": False,
    "use_mambapy": False,
    "vocab_size": 37,
  }
]


def published(width, depth):
  return {
    "model_type": "mamba",
    "hidden_size": width,
    "intermediate_size": 2 * width,
    "num_hidden_layers": depth,
    "tie_word_embeddings": True,
    "vocab_size": 50280,
  }


PUBLISHED = [
  (published(768, 24), 129_135_360),
  (published(1024, 48), 371_516_416),
  (published(2560, 64), 2_768_345_600),
]
