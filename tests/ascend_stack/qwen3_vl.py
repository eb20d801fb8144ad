"""A tiny Qwen3-VL, as a Hugging Face folder, and prompts with an image: as ``vision.py``'s models.

From 0.18 on vllm-ascend replaces the forward method of its attention, and norms and rotates by one operator of its own,
in eager mode too.
"""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.ascend_stack import vision

NAME = "Qwen3-VL"
MARKS = ("image_pad", "video_pad", "vision_start", "vision_end")
SECTION = [24, 20, 20]
TEXT = vision.TEXT | {"head_dim": 128, "num_attention_heads": 4}
SIZE = {"shortest_edge": 512, "longest_edge": 64 * 64}  # of an image, in pixels
SIGHT = {
    "depth": 1, "hidden_size": 128, "num_heads": 4, "patch_size": vision.PATCH, "out_hidden_size": 512,
    "intermediate_size": 512, "spatial_merge_size": vision.MERGED, "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
}  # fmt: skip


def mark(name: str, vocabulary: int) -> int:
    return vocabulary - len(MARKS) + MARKS.index(name)


def prompts(vocabulary: int) -> list[dict[str, Any]]:
    """An image between words, words alone, and an image first."""
    image = [mark(name, vocabulary) for name in ("vision_start", "image_pad", "vision_end")]
    draw = random.Random(0)
    first, then, alone, last = ([draw.randrange(5, vocabulary - len(MARKS)) for _ in range(50)] for _ in range(4))
    pictures = [{"image": vision.picture(*size)} for size in ((64, 32), (32, 48))]
    return [
        {"prompt_token_ids": [*first, *image, *then], "multi_modal_data": pictures[0]},
        {"prompt_token_ids": alone},
        {"prompt_token_ids": [*image, *last], "multi_modal_data": pictures[1]},
    ]


def use() -> None:
    import transformers

    vision.without_videos(transformers.Qwen3VLProcessor)
    # How large a video may be, which vLLM asks for even where a request may have none.
    transformers.Qwen3VLProcessor.video_processor = SimpleNamespace(size=SIZE, temporal_patch_size=2)
    transformers.Qwen3VLProcessor.tokenizer_class = "PreTrainedTokenizerFast"  # of words, as vision.tokenizer makes it


def model(vocabulary: int) -> Any:
    import transformers

    rope = {"rope_type": "default", "mrope_section": SECTION, "mrope_interleaved": True}
    ids = {
        "image_token_id": "image_pad", "video_token_id": "video_pad", "vision_start_token_id": "vision_start",
        "vision_end_token_id": "vision_end",
    }  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config=TEXT | {"vocab_size": vocabulary, "rope_scaling": rope},
        vision_config=SIGHT,
        tie_word_embeddings=False,
        **{of: mark(it, vocabulary) for of, it in ids.items()},
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


def write_processor(path: Path, vocabulary: int) -> None:
    import transformers

    of_images = getattr(transformers, "Qwen2VLImageProcessorPil", None) or transformers.Qwen2VLImageProcessor
    sizes = {"size": SIZE, "min_pixels": SIZE["shortest_edge"], "max_pixels": SIZE["longest_edge"]}  # by either name
    processor = of_images(patch_size=vision.PATCH, merge_size=vision.MERGED, **sizes)
    use()
    transformers.Qwen3VLProcessor(processor, vision.tokenizer(vocabulary, MARKS)).save_pretrained(path)
