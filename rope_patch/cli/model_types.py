"""What ``config.json`` does not say of a model: which lanes make a pair, and how many rotate. By ``model_type``.

No field says it; vLLM's code for the model does. A model that is not here is refused, not guessed.
"""

from rope_patch.cli import sections

# Lanes (0, 1), (2, 3) ... make pairs.
GPT_J = {
    *("chatglm", "glm", "glm4", "gptj", "ernie4_5", "ernie4_5_moe", "cohere", "cohere2", "cohere2_moe"),
    *("glm4v", "glm4v_text", "glm46v", "glm_ocr", "glm_ocr_text", *sections.ERNIE),
}
# The first half of the lanes and the second do.
NEOX = {
    *("afmoe", "apertus", "arcee", "aria", "aria_text", "arctic", "baichuan", "bamba", "cwm", "dbrx", "dots1"),
    *("exaone", "exaone4", "exaone_moe", "falcon", "falcon_h1", "flex_olmo", "gemma", "gemma2", "gemma3"),
    *("gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "glm4_moe", "glm4v_moe", "glm4v_moe_text"),
    *("gpt_neox", "gpt_oss", "granite", "granitemoe", "granitemoeshared", "hunyuan_v1_dense", "hunyuan_v1_moe"),
    *(
        "internlm2",
        "internlm3",
        "jais2",
        "laguna",
        "lfm2",
        "lfm2_moe",
        "llama",
        "llama4",
        "llama4_text",
        "mellum",
        "mimo",
        "mimo_v2_flash",
    ),
    *("minicpm", "minicpm3", "minimax", "minimax_m1", "minimax_m2", "ministral", "ministral3", "mistral", "mixtral"),
    *("nemotron", "olmo", "olmo2", "olmo3", "olmoe", "orion", "paddleocr_vl", "paddleocr_vl_text", "pangu"),
    *("persimmon", "phi", "phi3", "phimoe", "qwen", "qwen2", "qwen2_moe", "qwen2_vl", "qwen2_vl_text"),
    *("qwen2_5_vl", "qwen2_5_vl_text", "qwen2_5_omni", "qwen2_5_omni_thinker", "qwen2_5_omni_text", "qwen3"),
    *("qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_5"),
    *("qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_omni_moe", "qwen3_omni_moe_text", "seed_oss"),
    *("smollm3", "solar", "stablelm", "stablelm_epoch", "starcoder2", "step3_text", "step3p5", "vaultgemma"),
    *("granite_speech", "granite_speech_plus", "granite_swa", "granitemoe_swa", "hrm_text", "hyperclovax"),
    *("paligemma", "idefics3", "smolvlm", "glmasr", "qwen2_audio", "audioflamingo3"),
    *("cosmos3_edge_text", "muse_glimmer_text", "qwen4_exp_text"),
}
# Latent attention (MLA) rotates lanes of its own; its pairs are GPT-J's but for these.
LATENT_NEOX = {"minicpm3"}
# Sparse attention's indexer rotates in NeoX style unless a configuration says otherwise, or the model is the second.
INDEXED_GPT_J = {"hy_v4"}
INDEXED = {"deepseek_v32", "glm_moe_dsa", *INDEXED_GPT_J}
# Half of the lanes rotate unless a configuration says otherwise.
HALF = {"glm", "glm4", "glm4_moe", "glm4v", "glm4v_text", "glm4v_moe", "glm4v_moe_text", "glm46v"}
HALF |= {"glm_ocr", "glm_ocr_text"}
# No lane rotates.
NONE = {
    *("bloom", "gpt2", "gpt-sw3", "gpt_bigcode", "mpt", "opt", "mamba", "mamba2", "falcon_mamba", "jamba", "whisper"),
    *("bart", "bert", "roberta", "t5", "blip-2", "gpt_neo", "rwkv"),
}
