TINY = [
  {
    "model_type": "kimi_linear",
    "hidden_size": 24,
    "intermediate_size": 40,
    "kv_lora_rank": 8,
    "linear_attn_config": {
      "full_attn_layers": [2],
      "head_dim": 4,
      "kda_layers": [1],
      "num_heads": 3,
      "short_conv_kernel_size": 3,
    },
    "model_max_length": 64,
    "moe_intermediate_size": 8,
    "num_attention_heads": 3,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_hidden_layers": 2,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "vocab_size": 50,
  },
]
# 26 layers choose among 256 experts with a bias, which is a buffer of theirs
# and not counted among their 49,133,074,464 parameters.
PUBLISHED = [({"model_type": "kimi_linear"}, 49_133_074_464 + 26 * 256)]
