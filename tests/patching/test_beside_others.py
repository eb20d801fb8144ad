"""Beside other patchers of the same attribute: off is off, and the status says what is there; on doubles of vLLM."""

import itertools

import pytest

from tests.conftest import Run

BASE = "import vllm.model_executor.layers.rotary_embedding.base as base\n"
START = "import functools, sys, types, rope_target, rope_patch\n" + BASE
STATE = 'rope_patch.status()["targets"]["rotary_embedding"]'
KEY = 'import vllm.envs\nprint(vllm.envs.environment_variables.get("VLLM_ASCEND_TRITON_ROPE", str)() or None)\n'
CALLS = "print(base.Scaled()(1, 2, 3), base.EARLY(1, 2, 3))\n"

# How others put something in place of forward_oot. Each says "theirs+" and hands the call on.
WRAPPERS = {
    "a closure": """
def wrap(old):
    @functools.wraps(old)
    def wrapper(self, *args): return "theirs+" + old(self, *args)
    return wrapper
base.RotaryEmbedding.forward_oot = wrap(base.RotaryEmbedding.forward_oot)
""",
    "a global, as vllm-ascend's patches": """
patch = types.ModuleType("their_patch")
patch.old = base.RotaryEmbedding.forward_oot
exec("def forward_oot(self, *args): return 'theirs+' + old(self, *args)", vars(patch))
base.RotaryEmbedding.forward_oot = patch.forward_oot
""",
    "a default": """
def forward_oot(self, *args, old=base.RotaryEmbedding.forward_oot): return "theirs+" + old(self, *args)
base.RotaryEmbedding.forward_oot = forward_oot
""",
    "a partial within a function": """
def traced(self, old, *args): return "theirs+" + old(self, *args)
def of(old): return lambda self, *args: functools.partial(traced, self, old)(*args)
base.RotaryEmbedding.forward_oot = of(base.RotaryEmbedding.forward_oot)
""",
    "a partialmethod": """
def traced(self, old, *args): return "theirs+" + old(self, *args)
base.RotaryEmbedding.forward_oot = functools.partialmethod(traced, base.RotaryEmbedding.forward_oot)
""",
    "a dictionary in a closure": """
def wrap(kept):
    def wrapper(self, *args): return "theirs+" + kept["old"](self, *args)
    return wrapper
base.RotaryEmbedding.forward_oot = wrap({"old": base.RotaryEmbedding.forward_oot})
""",
    "an object that cannot be called": """
class Keeper:
    def __init__(self, old): self.old = old
def wrap(keeper):
    def wrapper(self, *args): return "theirs+" + keeper.old(self, *args)
    return wrapper
base.RotaryEmbedding.forward_oot = wrap(Keeper(base.RotaryEmbedding.forward_oot))
""",
    "wrapt": """
import wrapt
def traced(wrapped, instance, args, kwargs): return "theirs+" + wrapped(*args, **kwargs)
wrapt.wrap_function_wrapper(base, "RotaryEmbedding.forward_oot", traced)
""",
    "an object": """
class Traced:
    def __init__(self, old): self.old = old
    def __get__(self, instance, owner): return functools.partial(self, instance) if instance else self
    def __call__(self, *args): return "theirs+" + self.old(*args)
base.RotaryEmbedding.forward_oot = Traced(base.RotaryEmbedding.forward_oot)
""",
    "two wrappers": """
def wrap(old, said):
    return lambda self, *args: said + old(self, *args)
base.RotaryEmbedding.forward_oot = wrap(wrap(base.RotaryEmbedding.forward_oot, "+"), "theirs")
""",
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_off_is_off_within_whatever_others_put_around_us_and_on_is_on_again(with_doubles: Run, wrapper: str) -> None:
    code = START + wrapper
    for switch in ("", "rope_patch.disable()\n", "rope_patch.disable()\n", "rope_patch.enable()\n"):
        code += f"{switch}print(base.Scaled()(1, 2, 3))\nprint({STATE})\n{KEY}"
    lines = with_doubles(code).splitlines()[-12:]
    on, off, _, again = (lines[at : at + 3] for at in range(0, 12, 3))
    assert on[0] == again[0] == "theirs+ours"
    assert on[1] == again[1]
    assert on[1].startswith("applied; wrapped by ")
    assert "rotary_embedding" in on[2]
    assert off[0] == "theirs+native"
    assert off[1].startswith("off, wrapped by ")
    assert "what was already traced or captured stays" in off[1]
    assert off[2] == "None", "the compile cache's key is that of native code"


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_who_wraps_is_named_by_where_its_code_is(with_doubles: Run, wrapper: str) -> None:
    state = with_doubles(START + wrapper + f"print({STATE})").splitlines()[-1]
    assert any(name in state for name in ("__main__", "their_patch", "functools.")), state
    assert "vllm" not in state


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("off", [True, False])
def test_another_that_was_there_first_stays_below_us(with_doubles: Run, wrapper: str, off: bool) -> None:
    code = "import functools, types\n" + BASE + wrapper + "import rope_target, rope_patch\n"
    code += ("rope_patch.disable()\n" if off else "") + f"print(base.Scaled()(1, 2, 3), {STATE}[:10])"
    assert with_doubles(code).splitlines()[-1] == ("theirs+native taken back" if off else "ours applied")


HELD = {
    "a wrapper": "held = (lambda old: lambda *args: old(model, *args))(base.RotaryEmbedding.forward_oot)",
    "a bound method": "held = model.forward_oot",
    "a bound method that is no vLLM dispatch": "held = types.MethodType(base.RotaryEmbedding.forward_oot, model)",
    "a copied binding": "held = (lambda copied: lambda *args: copied(model, *args))(base.RotaryEmbedding.forward_oot)",
    "a partial": "held = functools.partial(base.RotaryEmbedding.forward_oot, model)",
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_whoever_holds_our_function_gets_the_original_while_it_is_off(with_doubles: Run, held: str) -> None:
    code = START + f"model = base.Scaled()\n{held}\n"
    for switch in ("", "rope_patch.disable()", "rope_patch.enable()", "rope_patch.disable()"):
        code += f"{switch}\nprint(held(1, 2, 3))\n"
    assert with_doubles(code).splitlines()[-4:] == ["ours", "native", "ours", "native"]


GONE = {
    "its own original put back": "base.RotaryEmbedding.forward_oot = original",
    "deleted": "del base.RotaryEmbedding.forward_oot",
    "something else": "base.RotaryEmbedding.forward_oot = lambda self, *args: 'theirs'",
}


@pytest.mark.parametrize("leaves", GONE.values(), ids=GONE)
def test_what_another_removed_is_gone_with_who_is_there_and_enable_puts_it_back(with_doubles: Run, leaves: str) -> None:
    """As a patcher from before us that leaves puts back what it had found, or a fork assigns its own function."""
    code = BASE + "original = base.RotaryEmbedding.forward_oot\nimport rope_target, rope_patch\n" + leaves + "\n"
    show = f"print(base.Scaled()(1, 2, 3), {STATE})\n{KEY}"
    code += f"{show}rope_patch.enable()\n{show}"
    code += f"print(base.EARLY(1, 2, 3))\nrope_patch.disable()\nprint(base.Scaled()(1, 2, 3), {STATE}[:10])\n"
    code += "print(base.EARLY(1, 2, 3))\n"
    gone, key, back, key_again, live, off, live_off = with_doubles(code).splitlines()[-7:]
    assert live == "ours", "a live model is served again too"
    assert live_off != "ours"
    theirs = "theirs" if "theirs" in leaves else "native"
    assert gone.startswith(f"{theirs} gone: ")
    assert "is there instead, and does not seem to call ours; rope_patch.enable() applies it again" in gone
    assert "on, rotary_embedding (gone: " in key, "a graph of such a process is neither one with us nor one without"
    assert back == "ours applied"
    assert "rotary_embedding" in key_again
    assert off == f"{theirs} taken back"


ACTIONS = {
    "off": "rope_patch.disable()",
    "on": "rope_patch.enable()",
    "wrap": "old = base.RotaryEmbedding.forward_oot\ndef theirs(self, *args, old=old): return 't+' + old(self, *args)\n"
    "base.RotaryEmbedding.forward_oot = theirs",
    "unwrap": "base.RotaryEmbedding.forward_oot = old",
}


ORDERS = [order for order in itertools.permutations(ACTIONS) if order.index("wrap") < order.index("unwrap")]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_in_any_order_of_off_on_and_another_that_comes_and_leaves_the_last_switch_decides(
    with_doubles: Run, order: tuple[str, ...]
) -> None:
    last = max(("on", "off"), key=order.index)
    show = CALLS + f"print({STATE})\n"
    code = START + "\n".join(ACTIONS[action] for action in order) + "\n" + show + ACTIONS[last] + "\n" + show
    calls, state, calls_again, state_again = with_doubles(code).splitlines()[-4:]
    if order == ("off", "wrap", "on", "unwrap"):  # it leaves with what it had found: the original
        assert (calls, state[:6]) == ("native ours", "gone: "), "a live model is still bound to ours"
        calls, state = calls_again, state_again
    kind = "native" if last == "off" else "ours"
    assert calls == calls_again == f"{kind} {kind}"
    # A wrapper that leaves after off puts ours back, which hands every call on.
    assert state.startswith("applied" if last == "on" else ("taken back", "off, still in place"))
    assert state_again.startswith("applied" if last == "on" else "taken back")


def test_a_module_that_waits_for_its_first_use_is_not_executed(with_doubles: Run) -> None:
    code = (
        """
import importlib.util, sys
def lazily(name):
    spec = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
lazily("colorsys")
sys.modules["broken"] = None
"""
        + START
        + "rope_patch.disable(); rope_patch.enable(); rope_patch.status()\n"
        + CALLS
        + """
print("ONE_THIRD" in object.__getattribute__(sys.modules["colorsys"], "__dict__"))
"""
    )
    assert with_doubles(code).splitlines()[-2:] == ["ours ours", "False"]


@pytest.mark.parametrize("who", ["behind us", "before us", "already there"])
def test_vllm_itself_may_wait_for_its_first_use(with_doubles: Run, who: str) -> None:
    lazy = """
import importlib.machinery, importlib.util, sys
NAME = "vllm.model_executor.layers.rotary_embedding.base"
class Lazy:
    asking = False
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == NAME and not cls.asking:
            cls.asking = True
            spec = importlib.util.find_spec(name)
            cls.asking = False
            spec.loader = importlib.util.LazyLoader(spec.loader)
            return spec
sys.meta_path.insert(0, Lazy)
"""
    ours = "import rope_target, rope_patch\n"
    steps = {
        "behind us": (lazy, ours, BASE),
        "before us": (ours, lazy, BASE),
        "already there": (lazy, BASE, ours),
    }
    printed = with_doubles("".join(steps[who]) + CALLS + CALLS).splitlines()
    assert printed[-2:] == ["ours ours", "ours ours"]


UNKNOWN = {
    "a class attribute": "class Keeper: old = base.RotaryEmbedding.forward_oot\n"
    "base.RotaryEmbedding.forward_oot = lambda self, *args: 'theirs+' + Keeper.old(self, *args)",
    "an attribute of the class itself": "base.RotaryEmbedding._old = base.RotaryEmbedding.forward_oot\n"
    "base.RotaryEmbedding.forward_oot = lambda self, *args: 'theirs+' + self._old(*args)",
    "a module": "patch = types.ModuleType('patch')\npatch.old = base.RotaryEmbedding.forward_oot\n"
    "base.RotaryEmbedding.forward_oot = lambda self, *args: 'theirs+' + patch.old(self, *args)",
}


@pytest.mark.parametrize("wrapper", UNKNOWN.values(), ids=UNKNOWN)
def test_where_it_cannot_be_told_whether_others_call_us_the_key_is_neither_ours_nor_that_of_native_code(
    with_doubles: Run, wrapper: str
) -> None:
    code = f"{START}{KEY}{wrapper}\nprint(base.Scaled()(1, 2, 3), {STATE})\n{KEY}"
    code += f"rope_patch.disable()\nprint(base.Scaled()(1, 2, 3))\n{KEY}"
    before, state, key, off, key_off = with_doubles(code).splitlines()[-5:]
    assert state.startswith("theirs+ours gone: ")
    assert "does not seem to call ours" in state
    assert key not in (before, key_off)
    assert (off, key_off) == ("theirs+native", "None")


DESCRIPTORS = {
    "functools.partialmethod": "functools.partialmethod(theirs, 'theirs+')",
    "a property": "property(lambda self: functools.partial(theirs, self, 'theirs+'))",
    "a descriptor of its own": "type('D', (), {'__get__': lambda d, o, t: functools.partial(theirs, o, 'theirs+')})()",
    "a static method": "staticmethod(lambda *args: 'theirs+native')",
}


@pytest.mark.parametrize("descriptor", DESCRIPTORS.values(), ids=DESCRIPTORS)
def test_a_descriptor_that_was_there_before_us_is_called_and_put_back_as_it_was(
    with_doubles: Run, descriptor: str
) -> None:
    code = f"import functools\n{BASE}def theirs(self, said, *args): return said + self.forward_native(*args)\n"
    code += f"base.RotaryEmbedding.forward_oot = there = {descriptor}\nlive = base.Scaled()\n"
    code += "import rope_target, rope_patch\n"
    for switch in ("", "rope_patch.disable()\n", "rope_patch.enable()\n", "rope_patch.disable()\n"):
        code += switch + "made = base.Scaled()\nprint(made(1, 2, 3), base.OwnMathematics()(1, 2, 3))\n"
    code += "print(made(1, 2, 3), live(1, 2, 3), vars(base.RotaryEmbedding)['forward_oot'] is there)\n"
    on, off, again, off_again, kept = with_doubles(code).splitlines()[-5:]
    own = "theirs+native" if "static" in descriptor else "theirs+its own"
    assert on == again == f"ours {own}"
    assert off == off_again == f"theirs+native {own}"
    assert kept == "theirs+native theirs+native True"


def test_copied_bindings_are_put_back_by_off_and_given_ours_again_by_on(with_doubles: Run) -> None:
    code = f"""
import rope_target, rope_patch, sys, types
from rope_patch.patching.replacement import Replacement
make = lambda original, is_on: lambda *args: "ours" if is_on() else original(*args)
rope_target.replacement = lambda module, settings: Replacement(module, "EARLY", make)
{BASE}
original = sys.modules["rope_patch.patching.hooks"].patch.outcomes[0].replacement.original
copier = sys.modules["copier"] = types.ModuleType("copier")
copier.copied = base.EARLY
rope_patch.disable()
print(copier.copied is original)
rope_patch.enable()
print(copier.copied(1, 2, 3))
"""
    assert with_doubles(code).splitlines()[-2:] == ["True", "ours"]


def test_what_is_inherited_goes_back_to_what_is_inherited_now(with_doubles: Run) -> None:
    code = (
        START
        + f"""
from vllm.custom_op import CustomOp
model = base.Scaled()
CustomOp.forward_oot = lambda self, *args: "theirs"
rope_patch.disable()
print(model(1, 2, 3), base.Scaled()(1, 2, 3), {STATE}[:10])
"""
    )
    assert with_doubles(code).splitlines()[-1] == "theirs theirs taken back"


@pytest.mark.parametrize("facade", ["types.ModuleType('facade')", "object()", "None"])
def test_a_module_that_is_replaced_in_sys_modules_breaks_neither_status_nor_vllms_key(
    with_doubles: Run, facade: str
) -> None:
    code = START + f"sys.modules[base.__name__] = {facade}\n{KEY}print(rope_patch.status()['targets'] is None)\n"
    code += "rope_patch.disable(); rope_patch.enable()\n" + CALLS
    printed = with_doubles(code).splitlines()
    assert printed[-2] == "False"
    assert "rotary_embedding" in printed[-3]


def test_an_object_whose_class_cannot_be_asked_is_not_asked(with_doubles: Run) -> None:
    code = (
        START
        + f"""
class Proxy:
    @property
    def __class__(self): raise RuntimeError("working outside of context")
    def __call__(self): pass
def wrap(old, proxy):
    return lambda self, *args: "theirs+" + old(self, *args) if proxy is not None else None
base.RotaryEmbedding.forward_oot = wrap(base.RotaryEmbedding.forward_oot, Proxy())
print({STATE}[:18], base.Scaled()(1, 2, 3))
"""
    )
    assert with_doubles(code).splitlines()[-1] == "applied; wrapped b theirs+ours"
