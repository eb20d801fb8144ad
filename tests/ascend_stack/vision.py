"""Tiny vision-language models with MRoPE, as Hugging Face folders, and prompts with an image.

Real: transformers' image processor and vLLM's multimodal code, the vision tower included. The tokens of an image get
three positions that differ; those of text three equal ones. ``use()`` leaves out of transformers' GLM-4V processor its
part for videos, which needs torchvision; vLLM reads from the folder how large a video may be (0.30 and newer).

GLM-OCR has GLM-4.1V's language model; its vision tower has norms and biases instead of learned positions. transformers
knows GLM-OCR only since its version 5, so the folder says ``glm4v``, with GLM-OCR's class for vLLM.
"""

import json
from pathlib import Path
from typing import Any

MERGED, PATCH = 2, 8  # a token of an image is 2 x 2 patches of 8 x 8 pixels
MARKS = ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
TEXT = {
    "num_hidden_layers": 2, "hidden_size": 512, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.12, "rope_theta": 10000.0,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
SIGHT = {
    "depth": 1, "hidden_size": 128, "num_heads": 4, "image_size": 64, "patch_size": PATCH, "out_hidden_size": 512,
    "intermediate_size": 512, "spatial_merge_size": MERGED,
}  # fmt: skip
MODELS: dict[str, tuple[str, float, list[int]]] = {  # vLLM's class, the rotated part of a head of 128, its sections
    "GLM-4.1V": ("Glm4vForConditionalGeneration", 0.5, [8, 12, 12]),
    "GLM-OCR": ("GlmOcrForConditionalGeneration", 1.0, [16, 24, 24]),
}


def mark(name: str, vocabulary: int) -> int:
    """The token of a mark; they are the last of the vocabulary."""
    return vocabulary - len(MARKS) + MARKS.index(name)


def prompts(vocabulary: int) -> list[dict[str, Any]]:
    """An image of 4 x 2 tokens between words, words alone, and an image of 2 x 3 tokens first."""
    image = [mark(name, vocabulary) for name in ("begin_of_image", "image", "end_of_image")]
    return [
        {"prompt_token_ids": [5, 6, 7, *image, 8, 9], "multi_modal_data": {"image": picture(64, 32)}},
        {"prompt_token_ids": [7, 7, 7, 9, 200, 31, 42]},
        {"prompt_token_ids": [*image, 300], "multi_modal_data": {"image": picture(32, 48)}},
    ]


def picture(width: int, height: int) -> Any:
    import numpy
    from PIL import Image

    noise = numpy.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(noise)


def use() -> None:
    import transformers

    without_videos(transformers.Glm4vProcessor)


def without_videos(processor: Any) -> None:
    parts = ["image_processor", "tokenizer"]
    processor.attributes = parts
    if hasattr(processor, "get_attributes"):  # by which transformers 5 finds them
        processor.get_attributes = classmethod(lambda cls: parts)


def write(name: str, path: Path, vocabulary: int) -> None:
    """The folder of a model with random weights, a tokenizer of that many words, and a processor of images."""
    import torch
    import transformers

    kind, partial, section = MODELS[name]
    torch.manual_seed(0)
    rope = {"rope_type": "default", "mrope_section": section}
    text = TEXT | {"vocab_size": vocabulary, "rope_scaling": rope, "partial_rotary_factor": partial}
    ids = {
        "image_token_id": "image", "video_token_id": "video", "image_start_token_id": "begin_of_image",
        "image_end_token_id": "end_of_image", "video_start_token_id": "begin_of_video",
        "video_end_token_id": "end_of_video",
    }  # fmt: skip
    tokens = {of: mark(it, vocabulary) for of, it in ids.items()}
    config = transformers.Glm4vConfig(text_config=text, vision_config=SIGHT, tie_word_embeddings=False, **tokens)
    model = transformers.Glm4vForConditionalGeneration(config)
    model.save_pretrained(path, state_dict=of_glm_ocr(model.state_dict()) if name == "GLM-OCR" else None)
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"architectures": [kind]}))
    size = {"shortest_edge": 512, "longest_edge": 2 * 64 * 64}  # pixels, of the two frames that an image counts as
    of_images = getattr(transformers, "Glm4vImageProcessorPil", None) or transformers.Glm4vImageProcessor
    processor = of_images(patch_size=PATCH, merge_size=MERGED, size=size)
    use()
    transformers.Glm4vProcessor(processor, tokenizer(vocabulary)).save_pretrained(path)
    (path / "video_preprocessor_config.json").write_text(json.dumps({"size": size}))


def tokenizer(vocabulary: int, names: tuple[str, ...] = MARKS) -> Any:
    """Words are ``w`` and their number; the last are marks."""
    import tokenizers
    import transformers

    marks = [f"<|{name}|>" for name in names]
    words = [*(f"w{i}" for i in range(vocabulary - len(marks))), *marks]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "w3"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(marks)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="w0", eos_token="w1", pad_token="w2")


def of_glm_ocr(weights: dict[str, Any]) -> dict[str, Any]:
    """GLM-4.1V's weights, with what GLM-OCR's vision tower has beside them and without what it has not."""
    import torch

    left = {k: w for k, w in weights.items() if ".embeddings." not in k and ".post_conv_layernorm." not in k}
    for name, weight in list(left.items()):
        if ".visual.blocks." in name and weight.dim() == 2:
            left[name.removesuffix("weight") + "bias"] = torch.randn(len(weight)) / 10
        if name.endswith(".attn.qkv.weight"):
            for norm in ("q_norm", "k_norm"):
                left[name.replace("qkv", norm)] = torch.ones(SIGHT["hidden_size"] // SIGHT["num_heads"])
    return left
