TINY = [
  {
    "model_type": "nemotron_h",
    "head_dim": 6,
    "hidden_size": 16,
    "hybrid_override_pattern": "ME*-M",
    "intermediate_size": 12,
    "mamba_head_dim": 5,
    "mamba_num_heads": 4,
    "max_position_embeddings": 64,
    "mlp_bias": True,
    "moe_intermediate_size": 8,
    "moe_latent_size": 10,
    "moe_shared_expert_intermediate_size": 9,
    "n_group": 2,
    "n_groups": 2,
    "n_routed_experts": 4,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 2,
    "ssm_state_size": 3,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_bias": True,
    "vocab_size": 30,
  }
]
PUBLISHED = [
  (
    {
      "model_type": "nemotron_h",
      "hybrid_override_pattern": (
        "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
      ),
      "num_hidden_layers": 52,
    },
    8_100_852_736,
  )
]
