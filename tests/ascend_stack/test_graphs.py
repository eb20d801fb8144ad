"""Graph mode of the released stacks: fusions are kept, the right operator is in the graph, and no warning is new.

Run in each environment of ``stack_environment``, on the host CANN; see the README.
What is compared is observed by ``tests/ascend_stack/graphs.py``: natively in a process of its own.
"""

import contextlib
import re
import subprocess
import sys

import pytest

from tests.ascend_stack import graphs, harness, processes
from tests.ascend_stack.graphs import CASES

pytestmark = harness.needs_stack

OUR_OP, OUR_KERNEL, OUR_FUSED = "rope_patch::rotary_embedding", "rotary_kernel", "normed_kernel"
UPSTREAMS_OP, UPSTREAMS_KERNEL = "vllm::npu_rotary_embedding", "_triton_rope"
FUSED, UPSTREAMS_FUSED = "vllm::qkv_rmsnorm_rope", "split_qkv_rmsnorm_rope_kernel"
# 0.13 asks npugraph_ex for kernels of static shapes, for which torchair needs a device's runtime.
CANNOT_RUN_HERE = "AclopStartDumpArgs execute failed"


@pytest.fixture(scope="module")
def native():
    return processes.table("tests.ascend_stack.native", "0")["graphs"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    import rope_patch  # noqa: F401  (the way in)

    with contextlib.chdir(tmp_path_factory.mktemp("graphs")):  # torchair leaves files in the current folder
        yield harness.start()


@pytest.fixture(scope="module")
def patched(stack):
    return graphs.table(stack)


@pytest.fixture(scope="module")
def everything(stack):
    """Under ``all``: the cases that it changes, and those that it must not change."""
    with under_all():
        return graphs.table(stack, ("full 128", "GPT-J 128"))


@contextlib.contextmanager
def under_all():
    """Applies the targets as under ``VLLM_ASCEND_TRITON_ROPE=all``, in a process that was started without it."""
    import rope_patch
    from rope_patch.patching.targets import TARGETS, NotApplicable
    from rope_patch.settings import VARIABLE, parse

    rope_patch.disable()
    installed = []
    try:
        for target in TARGETS:
            with contextlib.suppress(NotApplicable, KeyError):  # a release without that module
                installed.append(target.replacement(sys.modules[target.module], parse({VARIABLE: "all"})))
                installed[-1].install()
        yield
    finally:
        for replacement in installed:
            replacement.undo()
        rope_patch.enable()


def runs(table):
    """(path, case, observation) of everything that the host CANN can run."""
    for path, cases in table.items():
        for case, seen in cases.items():
            if CANNOT_RUN_HERE not in seen.get("raised", ""):
                yield path, case, seen


def older(table) -> bool:
    """0.11 and 0.13, whose graphs hold vendor operators."""
    return UPSTREAMS_OP not in table[next(iter(table))]["full 128"]["executed"]


def test_the_fusion_pass_matches_as_often_patched_as_unpatched(native, patched, everything):
    if "fusion passes" not in native:
        pytest.skip("this release has no fusion pass")
    found = {case: seen["matches"] for case, seen in native["fusion passes"].items() if "matches" in seen}
    assert found["full 128"] == 1, "the pass no longer matches a Qwen3 block: what it matches has moved"
    assert found["partial"] == found["llama3"] == 0
    for table in (patched, everything):
        for case, seen in table["fusion passes"].items():
            assert seen.get("matches") == found.get(case), case


def test_npugraph_ex_fuses_as_often_patched_as_unpatched(native, patched):
    if "npugraph_ex" not in native:
        pytest.skip("this release has no npugraph_ex")
    if CANNOT_RUN_HERE in native["npugraph_ex"]["full 128"].get("raised", ""):
        pytest.skip(f"the host CANN cannot run this release's npugraph_ex: {CANNOT_RUN_HERE}")
    assert FUSED in native["npugraph_ex"]["full 128"]["executed"]
    for case, seen in native["npugraph_ex"].items():
        ours = patched["npugraph_ex"][case]["executed"]
        assert (FUSED in seen["executed"]) == (FUSED in ours), case
        assert (FUSED in ours) == any(name.startswith(OUR_FUSED) for name in ours), "the operator is not served"
        assert UPSTREAMS_FUSED not in ours
        assert (FUSED in seen["executed"]) == (UPSTREAMS_FUSED in seen["executed"]), "this looks for another name"


@pytest.mark.parametrize("case", CASES)
def test_the_graph_runs_the_right_operator(native, patched, everything, case):
    """Ours for partial rotary of the older releases and for classes upstream does not register; upstream's operator,
    with our kernel inside, on the newer; the vendor's where a call is left native."""
    kind, _, head_size, rotary_dim, is_neox_style = CASES[case]
    for mode, table in (("1", patched), ("all", everything)):
        for path, name, seen in runs(table):
            if name != case or "raised" in seen or FUSED in seen["executed"]:
                continue
            where = (mode, path, seen["executed"])
            taken = rotary_dim < head_size or (mode == "all" and not (head_size == 128 and is_neox_style))
            if kind == "llama3" or (older(native) and taken):
                assert OUR_OP in seen["executed"], where
                assert any(name.startswith(OUR_KERNEL) for name in seen["executed"]), where
            elif older(native):
                assert OUR_OP not in seen["executed"], where
                assert not any(name.startswith(OUR_KERNEL) for name in seen["executed"]), where
            else:
                assert OUR_OP not in seen["executed"], where
                assert UPSTREAMS_OP in seen["executed"], where
                assert any(name.startswith(OUR_KERNEL) for name in seen["executed"]), where
                assert UPSTREAMS_KERNEL not in seen["executed"], where


def test_every_graph_gives_the_references_result(native, patched, everything):
    for table in (patched, everything):
        for path, case, seen in runs(table):
            if "CI" in path and "raised" in seen:
                continue  # as unpatched: which the test of warnings compares
            # Where it is fused, nothing is rounded between norm and rotation, as it is in the reference.
            assert seen["error"] <= (2**-4 if FUSED in seen["executed"] else 2**-6), (path, case)


def test_our_operator_is_not_functionalised_into_clones(native, patched, everything):
    for table in (patched, everything):
        for path, case, seen in runs(table):
            ops = seen.get("ops", {})
            if any("rope_patch" in name for name in ops):
                assert not [name for name in ops if "auto_functionalized" in name or "clone" in name], (path, case, ops)
    if older(native) and "fusion passes" in native:
        assert any("auto_functionalized" in name for name in native["fusion passes"]["partial"]["ops"]), (
            "this looks at the wrong graph: the vendor's operator is functionalised there"
        )


def test_no_warning_is_given_that_an_unpatched_process_does_not_give(native, patched, everything):
    known = {complaint for cases in native.values() for seen in cases.values() for complaint in seen["complaints"]}
    for table in (patched, everything):
        for path, cases in table.items():
            for case, seen in cases.items():
                new = [text for text in seen["complaints"] if text not in known]
                assert not new, (path, case)


def test_no_error_is_raised_that_an_unpatched_process_does_not_raise_with_ci_set_too(native, patched, everything):
    """Upstream's operator of 0.15 and newer returns its inputs, which torch refuses when ``CI`` is set."""
    for table in (patched, everything):
        for path, cases in table.items():
            for case, seen in cases.items():
                assert seen.get("raised") == native[path][case].get("raised"), (path, case)
    assert not [path for path, case, seen in runs(patched) if case == "llama3" and "raised" in seen]


def test_where_a_call_is_left_native_the_status_says_why(native, patched, everything):
    if not older(native):
        assert not [seen["fallbacks"] for _, _, seen in runs(patched) if seen["fallbacks"]]
        return
    path = next(iter(patched))
    assert "fusion pass" in next(iter(patched[path]["full 128"]["fallbacks"]))
    assert "fusion pass" in next(iter(everything[path]["full 128"]["fallbacks"]))
    assert "VLLM_ASCEND_TRITON_ROPE=all" in next(iter(patched[path]["GPT-J 128"]["fallbacks"]))
    assert not everything[path]["GPT-J 128"]["fallbacks"]
    assert not patched[path]["partial"]["fallbacks"]


def test_ci_in_the_environment_sets_what_the_observations_set(tmp_path):
    code = "from torch._functorch import config; print(config.error_on_custom_op_aliasing)"
    for value, said in (("true", "True"), ("", "False")):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"CI": value, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.strip() == said, f"torch no longer takes it from CI, or so: {done.stderr}"


def test_vllms_compile_cache_has_another_key_for_every_setting_that_makes_another_graph(stack):
    """Off and disabled nothing of ours is in the key but names, so neither finds a graph that was made with us."""
    import rope_patch

    keys = {"off": processes.table("tests.ascend_stack.native", "0")["key"], "on": graphs.cache_key()}
    rope_patch.disable()
    try:
        keys["disabled"] = graphs.cache_key()
    finally:
        rope_patch.enable()
    if stack.version.startswith("0.11"):
        # Its key is made of a fixed list of variables. vllm-ascend's compiler there caches nothing, so that is
        # harmless.
        from vllm.compilation.compiler_interface import EagerAdaptor

        assert EagerAdaptor().compile(None, [], {}, None)[1] is None, "there is something to keep now"
        return
    # Switched off by its variable, vLLM knows our names; disabled, those that were not set are unknown to it again.
    nothing = {
        name: re.sub(r"\('VLLM_ASCEND_TRITON_ROPE\w*', None\), ", "", keys[name]) for name in ("off", "disabled")
    }
    assert nothing["off"] == nothing["disabled"]
    assert "VLLM_ASCEND_TRITON_ROPE" not in nothing["off"]
    assert keys["on"] not in (keys["off"], keys["disabled"])
    named = rf"rope_patch {re.escape(rope_patch.__version__)} \(\w+\): on, ascend_"
    assert re.search(named, keys["on"]), "by version, source, mode and what is applied"
    assert graphs.cache_key() == keys["on"], "the same setting finds what it left"
