"""``VLLM_ASCEND_TRITON_ROPE_NATIVE`` leaves single targets native; on doubles of vLLM, without torch."""

from rope_patch.settings import NATIVE, VARIABLE
from tests.conftest import Run

SHOW = """
import rope_target, rope_patch
import vllm.envs, vllm.model_executor.layers.rotary_embedding.base as base
status = rope_patch.status()
print(base.EARLY(1, 2, 3), "forward_oot" in vars(base.RotaryEmbedding), rope_target.made)
print(status["targets"]["rotary_embedding"])
print(sorted(name for name in vllm.envs.environment_variables if name.startswith("VLLM_ASCEND")))
print(vllm.envs.environment_variables["VLLM_ASCEND_TRITON_ROPE"]())
print(status["environment"], status["mode"])
"""
LEFT = f"native: as {NATIVE} says"


def test_a_target_left_native_is_not_even_made_and_status_says_why(with_doubles: Run) -> None:
    state, target, known, key, environment = with_doubles(SHOW, **{NATIVE: "rotary_embedding"}).splitlines()[-5:]
    assert state == "native False 0"
    assert target == LEFT
    assert f"'{NATIVE}'" in known, "else vLLM warns of it, and Ray workers do not get it"
    assert key == "None", "nothing serves: the graphs are vLLM's own"
    assert environment == f"{{'{NATIVE}': 'rotary_embedding'}} on"


def test_enable_leaves_them_native_too(with_doubles: Run) -> None:
    code = SHOW + "rope_patch.disable(); rope_patch.enable(); print(base.Scaled()(1, 2, 3))"
    assert with_doubles(code, **{NATIVE: "rotary_embedding"}).splitlines()[-1] == "native"


def test_force_still_asks_for_a_capable_process(with_doubles: Run) -> None:
    code = "import rope_target, rope_patch, vllm.model_executor.layers.rotary_embedding.base"
    printed = with_doubles(code, rc=1, DOUBLE_PLATFORM="cuda", **{VARIABLE: "force", NATIVE: "rotary_embedding"})
    assert "NotCapable: VLLM_ASCEND_TRITON_ROPE=force, but platform" in printed
