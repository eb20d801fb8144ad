"""The target for LongRoPE on doubles of vLLM's class: which rows of its two caches the kernel gets, what is left.

``tests/ascend_stack/test_patched.py`` tests it on the real packages.
"""

from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="rotations need torch")
pytest.importorskip("triton", reason="rotations need triton")

from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rope_patch.operators.reference import rotate  # noqa: E402
from rope_patch.operators.rotation import Rotation  # noqa: E402
from rope_patch.patching.targets import NotApplicable, longrope  # noqa: E402
from rope_patch.reporting import ledger  # noqa: E402
from rope_patch.settings import parse  # noqa: E402
from tests.rotations import DEVICE  # noqa: E402

SHORT, LONG, HEAD_SIZE, ROTARY_DIM = 8, 24, 32, 20


def by_call(self: Any, positions: Any, query: Any, key: Any = None, offsets: Any = None) -> Any:
    _ = self.long_short_cos_sin_cache, (positions > self.original_max_position_embeddings).any()
    return "upstream", offsets


def by_instance(self: Any, positions: Any, query: Any, key: Any = None, offsets: Any = None) -> Any:
    _ = self.long_short_cos_sin_cache, self.use_long_rope, self.original_max_position_embeddings
    return "upstream", offsets


def made(long: bool | None, seed: int = 0) -> Any:
    """The module as vLLM has it, patched, and an instance; ``long`` is None as in 0.11, where each call decides."""
    module = ModuleType("vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope")

    class Phi3LongRoPEScaledRotaryEmbedding(torch.nn.Module):
        forward = by_call if long is None else by_instance

    setattr(module, longrope.NAME, Phi3LongRoPEScaledRotaryEmbedding)
    longrope.replacement(module, parse({})).install()
    embedding = Phi3LongRoPEScaledRotaryEmbedding()
    embedding.head_size, embedding.rotary_dim, embedding.original_max_position_embeddings = HEAD_SIZE, ROTARY_DIM, SHORT
    cache = torch.randn(SHORT + LONG, ROTARY_DIM, generator=torch.Generator().manual_seed(seed))
    embedding.register_buffer("long_short_cos_sin_cache", cache.to(DEVICE), persistent=False)
    if long is not None:
        embedding.use_long_rope = long
    return embedding


def tensors(num_tokens: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(num_tokens)
    qkv = torch.randn(num_tokens, 4 * HEAD_SIZE, generator=generator).to(DEVICE)
    return qkv[:, : 2 * HEAD_SIZE], qkv[:, 2 * HEAD_SIZE : 3 * HEAD_SIZE]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([None, False, True]), st.lists(st.integers(0, LONG - 1), min_size=1, max_size=5))
@example(None, [SHORT, 3])  # 0.11 calls that short
@example(True, [SHORT, 3])
def test_every_token_turns_by_the_row_of_the_cache_that_vllm_takes(long: bool | None, positions: list[int]) -> None:
    if long is False:
        positions = [position % SHORT for position in positions]
    embedding, (query, key) = made(long), tensors(len(positions))
    shifted = any(position > SHORT for position in positions) if long is None else long
    rows = torch.tensor(positions) + (SHORT if shifted else 0)
    ledger.reset()
    before = query.clone(), key.clone()
    rotated = embedding(torch.tensor(positions, device=DEVICE), query, key)
    assert ledger.calls() == {"eager": 1}
    for was, now in zip(before, rotated, strict=True):
        heads = was.cpu().unflatten(-1, (-1, HEAD_SIZE))
        rotation = Rotation(heads.shape[-1], ROTARY_DIM, True)
        exact = rotate(rows, heads, embedding.long_short_cos_sin_cache.cpu(), rotation).flatten(-2)
        torch.testing.assert_close(now.cpu(), exact, atol=1e-5, rtol=1e-5)


def test_what_vllm_would_serve_otherwise_or_refuse_is_the_originals() -> None:
    embedding, (query, key), positions = made(True), tensors(3), torch.arange(3, device=DEVICE)
    ledger.reset()
    assert embedding(positions, query, key, "offsets") == ("upstream", "offsets")
    assert embedding(positions, query) == ("upstream", None)
    assert embedding(positions[None], query, key) == ("upstream", None)
    assert embedding(positions, query.view(3, 2, HEAD_SIZE), key) == ("upstream", None)
    assert embedding(positions, query.half(), key.half()) == ("upstream", None), "vLLM's result would be float32"
    assert ledger.fallbacks() == {longrope.UNKNOWN: 4, longrope.OTHER_DTYPE: 1}
    assert not ledger.calls()


def test_a_class_that_chooses_otherwise_between_its_caches_is_left() -> None:
    def by_token(self: Any, positions: Any, query: Any, key: Any = None, offsets: Any = None) -> Any:
        return self.long_short_cos_sin_cache[positions > self.original_max_position_embeddings]

    module = ModuleType("newer")
    setattr(module, longrope.NAME, type(longrope.NAME, (torch.nn.Module,), {"forward": by_token}))
    with pytest.raises(NotApplicable, match="does not choose between its caches in a known way"):
        longrope.replacement(module, parse({})).install()


@pytest.mark.parametrize("module", [ModuleType("empty"), torch.nn])
def test_another_module_is_left(module: ModuleType) -> None:
    with pytest.raises(NotApplicable, match="there is no Phi3LongRoPEScaledRotaryEmbedding"):
        longrope.replacement(module, parse({})).install()
