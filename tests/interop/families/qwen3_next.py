TINY = [
  {
    "model_type": "qwen3_next",
    "decoder_sparse_step": 2,
    "head_dim": 8,
    "hidden_size": 24,
    "intermediate_size": 40,
    "full_attention_interval": 2,
    "linear_key_head_dim": 6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 4,
    "moe_intermediate_size": 8,
    "num_attention_heads": 3,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "shared_expert_intermediate_size": 12,
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "qwen3_next"}, 79_674_391_296)]
