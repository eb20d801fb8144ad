"""Kernels of upstream's that are let run although their pipes share bytes unordered: which bytes, and that no more.

Releases are pinned. Each test fails when their place is taken by one that has mended its kernel, or by a compiler that
orders it: then take it off the list.
"""

import numpy as np
import pytest

from tests.ascend_kernels.others import VERSIONS, error, kernel_of, module_of, program, random, run, turned
from tests.host_cann.fixture import needs_build

pytestmark = needs_build
QH, KH, HEAD, PER_PROGRAM, ROWS = 12, 1, 128, 4, 64  # tokens at once: as its wrapper reckons for these heads
ORDER = r"order: scalar load \(pipe S\) reads 8 bytes at UB \w+, with no flag or barrier after "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("races")


def test_no_other_kernel_is_let_run():
    from tests.host_cann.hivmc import entry

    assert sorted(entry.RACES) == [
        "_compute_slot_mapping_kernel",
        "split_qkv_rmsnorm_rope_kernel",
        "token_bin_counts_and_mask_kernel",
    ]


def split_qkv(folder, version: str, tokens: int, **how) -> float:
    """Run vllm-ascend 0.23.0's (and 0.18.0's: the same text) on one core; its error."""
    member = "vllm_ascend/ops/triton/linearnorm/split_qkv_rmsnorm_rope.py"
    kernel = module_of("0.23.0", folder, member).split_qkv_rmsnorm_rope_kernel
    q_size, kv_size = QH * HEAD, KH * HEAD
    values = {"q_bias_ptr": None, "k_bias_ptr": None, "q_hidden_size": q_size, "kv_hidden_size": kv_size}
    values |= {"total_hidden_size": q_size + 2 * kv_size, "eps": 1e-6, "BIAS": False, "HEAD_DIM": HEAD}
    values |= {"ROPE_DIM": HEAD, "HALF_ROPE_DIM": HEAD // 2, "IS_PARTIAL_ROPE": False, "num_vectorcore": 1}
    values |= {"batch_size_per_iter_per_vec": PER_PROGRAM, "qk_head_nums_per_iter_per_vec": PER_PROGRAM * (QH + KH)}
    values |= {"q_head_num": QH, "kv_head_num": KH, "qk_head_num_sum": QH + KH, "v_batch_size_per_iter_per_vec": 337}
    (x, wide), (cache, wide_cache) = random(tokens, q_size + 2 * kv_size), random(ROWS, HEAD, seed=1)
    outputs = [random(tokens, size)[0] for size in (q_size, kv_size, kv_size)]
    (q_weight, wq), (k_weight, wk) = random(HEAD, seed=2), random(HEAD, seed=3)
    positions = np.arange(tokens) * 7 % ROWS
    compiled = program(kernel, version, tuple(values.items()))
    run(compiled, 1, x, *outputs, q_weight, k_weight, tokens, positions, cache, **how)
    assert (outputs[2] == x[:, q_size + kv_size :]).all()
    turn, errors = [part[:, None] for part in np.split(wide_cache[positions], 2, -1)], []
    for out, weight, heads, at in ((outputs[0], wq, QH, 0), (outputs[1], wk, KH, q_size)):
        y = wide[:, at : at + heads * HEAD].reshape(tokens, heads, HEAD)
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-6) * weight
        errors.append(error(out, turned(y, *turn)))
    return float(np.max(errors))


@pytest.mark.parametrize("version", VERSIONS)
def test_split_qkv_rmsnorm_rope_reads_positions_behind_the_last_token_unordered_and_no_others(folder, version):
    """The last tile, if not full: the vector pipe fills the rest of its positions, and the scalar unit reads them with
    no flag between. Those are rows of nobody: full tiles, several a core, are in order and right, and so is a last one
    that is not full when it is let run in program order. So these compilers' programs do not show why its q and k are
    wrong and different from run to run on NPUs (vllm-ascend #16674)."""
    from tests.host_cann import standalone

    assert split_qkv(folder, version, 3 * PER_PROGRAM) < 4
    with pytest.raises(standalone.Failed, match=ORDER + r"MOVEV\.s32 \(pipe V\)"):
        split_qkv(folder, version, 10)
    assert split_qkv(folder, version, 10, in_program_order=True) < 4


BLOCK, AT_ONCE, WIDTH = 16, 64, 8  # a cache's block, the kernel's own step (1024 in vLLM), a block table's row


def slots(folder, version: str, lengths: list[int], **how) -> None:
    """Run vLLM's for requests of so many tokens, and compare."""
    member, name = "vllm/v1/worker/block_table.py", "_compute_slot_mapping_kernel"
    values = {"TOTAL_CP_WORLD_SIZE": 1, "TOTAL_CP_RANK": 0, "CP_KV_CACHE_INTERLEAVE_SIZE": 1, "PAD_ID": -1}
    compiled = program(kernel_of("0.23.0", folder, member, name), version, (*values.items(), ("BLOCK_SIZE", AT_ONCE)))
    start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    tokens = int(start[-1])
    positions = np.concatenate([np.arange(n) for n in lengths])
    table = np.random.default_rng(0).permutation(len(lengths) * WIDTH).astype(np.int32).reshape(-1, WIDTH)
    found = np.zeros(tokens + 5, np.int64)
    grid = len(lengths) + 1
    run(compiled, grid, tokens, len(found), start, positions, table, WIDTH, BLOCK, found, **how)
    request = np.repeat(np.arange(len(lengths)), lengths)
    assert (found[:tokens] == table[request, positions // BLOCK] * BLOCK + positions % BLOCK).all()
    assert (found[tokens:] == -1).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_vllms_slot_mapping_does_the_same(folder, version):
    """A request's last step, if not full: the positions behind its last token, which are nobody's."""
    from tests.host_cann import standalone

    slots(folder, version, [AT_ONCE, 2 * AT_ONCE])
    with pytest.raises(standalone.Failed, match=ORDER + r"MOVEV\.\w+ \(pipe V\)"):
        slots(folder, version, [AT_ONCE, AT_ONCE + 7])
    slots(folder, version, [AT_ONCE, AT_ONCE + 7, 1], in_program_order=True)


VOCABULARY, COUNTED_AT_ONCE = 96, 256


def counts(folder, tokens: int, **how) -> None:
    """Count two requests' tokens by vllm-ascend 0.30.0rc2's kernel, whose last store is atomic, and compare."""
    member, name = "vllm_ascend/ops/triton/bincount.py", "token_bin_counts_and_mask_kernel"
    compiled = program(kernel_of("0.30.0rc2", folder, member, name), VERSIONS[-1], (("SEQ_BLOCK", COUNTED_AT_ONCE),))
    given = np.random.default_rng(0).integers(0, VOCABULARY, (2, tokens))
    given[1, -3:] = VOCABULARY  # nobody's
    found = np.zeros((2, VOCABULARY), np.int32)
    blocks = 2 * -(-tokens // COUNTED_AT_ONCE)
    run(compiled, 2, given, tokens, 1, 2, tokens, VOCABULARY, found, VOCABULARY, 1, blocks, **how)
    assert (found == [np.bincount(row, minlength=VOCABULARY + 1)[:VOCABULARY] for row in given]).all()


@pytest.mark.parametrize("tokens", [2 * COUNTED_AT_ONCE, COUNTED_AT_ONCE + 7])
def test_vllm_ascends_counting_of_tokens_shares_bytes_unordered_and_is_right_in_program_order(folder, tokens):
    """Full tiles too: comparisons, and tokens behind the last one."""
    from tests.host_cann import standalone

    with pytest.raises(standalone.Failed, match=r"order: .* with no flag or barrier after "):
        counts(folder, tokens)
    counts(folder, tokens, in_program_order=True)


def test_slot_mapping_of_0_30_takes_the_smallest_of_integers_without_a_temporary_buffer(folder):
    """The library hands its reductions of whole rows none, and reads the fields of what it hands on all the same."""
    member, name = "vllm_ascend/ops/triton/compute_slot_mapping.py", "_compute_slot_mapping_kernel"
    values = {"KV_CACHE_BLOCK_SIZE": BLOCK, "BLOCKS_PER_KV_BLOCK": 1, "TOTAL_CP_WORLD_SIZE": 1, "TOTAL_CP_RANK": 0}
    values |= {"CP_KV_CACHE_INTERLEAVE_SIZE": 1, "PAD_ID": -1, "TILE_BLOCK_SIZE": AT_ONCE, "IS_CIRCULAR": False}
    values |= {"BLOCK_TABLE_WINDOW_SIZE": WIDTH}
    kinds = ("slot_mapping_ptr", "*i32")
    compiled = program(kernel_of("0.30.0rc2", folder, member, name), VERSIONS[-1], tuple(values.items()), (kinds,))
    start, positions = (
        np.array([0, AT_ONCE, 3 * AT_ONCE], np.int32),
        np.concatenate([np.arange(AT_ONCE), np.arange(2 * AT_ONCE)]),
    )
    table = np.random.default_rng(0).permutation(2 * WIDTH).astype(np.int32).reshape(2, WIDTH)
    found = np.zeros(len(positions) + 5, np.int32)
    run(compiled, 3, len(positions), len(found), start, positions, table, WIDTH, BLOCK, found)
    request = np.repeat([0, 1], [AT_ONCE, 2 * AT_ONCE])
    assert (found[: len(positions)] == table[request, positions // BLOCK] * BLOCK + positions % BLOCK).all()
    assert (found[len(positions) :] == -1).all()
