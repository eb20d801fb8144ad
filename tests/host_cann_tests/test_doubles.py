"""The doubles of the vendors' rotary operators: they agree with each other, and refuse what the real ones do."""

import pytest

from tests.host_cann.fixture import needs_build

pytestmark = needs_build


@pytest.fixture
def case(npu):
    """positions, q, k, cache for five tokens; heads of 128, fully rotated."""
    npu.manual_seed(0)
    return (
        npu.tensor([0, 7, 3, 3, 1]),
        npu.randn(5, 4 * 128).half(),
        npu.randn(5, 128).half(),
        npu.randn(8, 128).half(),
    )


def expected(torch, x, positions, cache):
    """The same rotation computed in another way: by complex numbers, in double precision."""
    cos, sin = cache[positions].double().chunk(2, -1)
    x1, x2 = x.double().view(5, -1, 128).chunk(2, -1)
    turned = torch.complex(x1, x2) * torch.complex(cos, sin)[:, None]
    return torch.cat((turned.real, turned.imag), -1).flatten(1)


def close(torch, got, want):
    assert got.device.type == "npu"
    assert torch.allclose(got.cpu().double().flatten(), want.flatten(), atol=2e-2, rtol=2e-3)


def test_mrope_and_both_in_place_embeddings(npu, case):
    import torch_npu

    positions, q, k, cache = case
    on_npu = [t.npu() for t in case]
    out_q, out_k = torch_npu.npu_mrope(*on_npu, 128)
    close(npu, out_q, expected(npu, q, positions, cache))
    close(npu, out_k, expected(npu, k, positions, cache))
    custom_q, _ = npu.ops._C_ascend.rotary_embedding(on_npu[0], q.npu(), k.npu(), 128, on_npu[3], True)
    assert npu.equal(custom_q, out_q)
    torch_npu._npu_rotary_embedding(on_npu[0], on_npu[1], on_npu[2], 128, on_npu[3], True)
    assert npu.equal(on_npu[1], out_q)
    assert npu.equal(on_npu[2], out_k)


@pytest.mark.parametrize("cache_mode", ["default", "interleave"])
def test_mrope_takes_each_lane_from_its_section(npu, case, cache_mode):
    import torch_npu

    _, q, k, cache = case
    positions, sections = npu.randint(0, 8, (3, 5)), [24, 20, 20]
    # The kind of position of each lane: time, height or width. If interleaved, the last four lanes are time's again.
    kinds = [0] * 24 + [1] * 20 + [2] * 20 if cache_mode == "default" else [0, 1, 2] * 20 + [0] * 4
    rows = npu.stack([cache[positions[kind], lane] for lane, kind in enumerate(kinds)], -1)
    sines = npu.stack([cache[positions[kind], 64 + lane] for lane, kind in enumerate(kinds)], -1)
    tokens = npu.arange(5)
    out_q, out_k = torch_npu.npu_mrope(
        positions.npu(), q.npu(), k.npu(), cache.npu(), 128, mrope_section=sections, cache_mode=cache_mode
    )
    close(npu, out_q, expected(npu, q, tokens, npu.cat((rows, sines), -1)))
    close(npu, out_k, expected(npu, k, tokens, npu.cat((rows, sines), -1)))


def test_apply_rotary_pos_emb_updates_in_place_and_returns(npu, case):
    import torch_npu

    positions, q, k, cache = case
    cos, sin = (c.repeat(1, 2).view(1, 5, 1, 128).npu() for c in cache[positions].chunk(2, -1))
    query, key = q.view(1, 5, 4, 128).npu(), k.view(1, 5, 1, 128).npu()
    out, _ = torch_npu.npu_apply_rotary_pos_emb(query, key, cos, sin)
    assert out.data_ptr() == query.data_ptr()
    close(npu, query, expected(npu, q, positions, cache))
    assert npu.equal(torch_npu.npu_rotary_mul(q.view(1, 5, 4, 128).npu(), cos, sin), query)


def test_documented_limits_are_errors(npu):
    import torch_npu

    positions, cache = npu.zeros(2, dtype=npu.int64).npu(), npu.zeros(4, 40).npu()
    x = npu.zeros(2, 80).npu()
    with pytest.raises(ValueError, match=r"npu_mrope.*multiple of 16"):
        torch_npu.npu_mrope(positions, x, x.clone(), cache, 40)
    four, q, wide_cache = npu.zeros(4, 2, dtype=npu.int64).npu(), npu.zeros(2, 128).npu(), npu.zeros(4, 128).npu()
    with pytest.raises(ValueError, match=r"npu_mrope.*cache mode 'interleave' with sections \[16, 16, 16, 16\]"):
        torch_npu.npu_mrope(four, q, q, wide_cache, 128, mrope_section=[16] * 4, cache_mode="interleave")
    wide = npu.zeros(1, 2, 1, 80).npu()
    with pytest.raises(ValueError, match=r"npu_apply_rotary_pos_emb.*64 or 128"):
        torch_npu.npu_apply_rotary_pos_emb(wide, wide, wide, wide)
    with pytest.raises(ValueError, match="neox=false"):
        npu.ops._C_ascend.rotary_embedding(positions, x, x.clone(), 40, cache, False)


def test_keys_and_values_go_to_their_slots_of_a_cache_that_is_not_contiguous_and_padding_nowhere(npu):
    import torch_npu

    both = npu.zeros(3, 2, 4, 2, 8)  # blocks of four tokens, keys and values in turns
    cache = both.npu()
    key, value = npu.randn(3, 2, 8), npu.randn(3, 2, 8)
    slots = npu.tensor([9, -1, 2])
    caches = {"key_cache": cache[:, 0], "value_cache": cache[:, 1]}
    given = {"key": key.npu(), "value": value.npu(), "slot_mapping": slots.npu()}
    torch_npu.npu_scatter_pa_kv_cache(**given, **caches, cache_mode="Norm")
    both[2, 0, 1], both[2, 1, 1], both[0, 0, 2], both[0, 1, 2] = key[0], value[0], key[2], value[2]
    assert npu.equal(cache.cpu(), both)
    with pytest.raises(ValueError, match="cache mode"):
        torch_npu.npu_scatter_pa_kv_cache(**given, **caches)


def test_tokens_are_quantised_by_their_largest_value(npu):
    import torch_npu

    x = npu.tensor([[1.0, -2.0, 0.5], [0.0, 0.25, 0.125]]).bfloat16()
    quantised, scale = torch_npu.npu_dynamic_quant(x.npu())
    assert npu.equal(quantised.cpu(), npu.tensor([[64, -127, 32], [0, 127, 64]], dtype=npu.int8))
    assert npu.allclose(scale.cpu() * 127, npu.tensor([2.0, 0.25]))
    with pytest.raises(ValueError, match=r"npu_dynamic_quant.*no smoothing"):
        torch_npu.npu_dynamic_quant(x.npu(), smooth_scales=npu.ones(3).bfloat16().npu())


@pytest.mark.parametrize("div_mode", [True, False])
def test_values_are_quantised_by_given_scales_and_offsets(npu, div_mode):
    import torch_npu

    x, offset = npu.tensor([[1.0, -2.0, 40.0]]).bfloat16(), npu.tensor([3.0, 0.0, 0.0]).bfloat16()
    scale = npu.full((3,), 0.25 if div_mode else 4.0).bfloat16()
    quantised = torch_npu.npu_quantize(x.npu(), scale.npu(), offset.npu(), npu.qint8, -1, div_mode)
    assert npu.equal(quantised.cpu(), npu.tensor([[7, -8, 127]], dtype=npu.int8))
    with pytest.raises(ValueError, match=r"npu_quantize.*axis 0"):
        torch_npu.npu_quantize(x.npu(), scale.npu(), offset.npu(), npu.qint8, 0, div_mode)
