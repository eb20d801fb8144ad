"""Rope parameters of published models, scaled down to ``harness.MAX_POSITION``."""

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 2.0, "original_max_position_embeddings": 64}
DEEPSEEK = {
    "factor": 40.0,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
    "mscale_all_dim": 0.0,
    "beta_fast": 32,
    "beta_slow": 1,
}
