"""Beside the real others that hook imports or wrap functions, which come before us or after us, and leave in any order.

vLLM is a double here; ``test_real_others_in_vllm.py`` has two of them beside the real one.
"""

import importlib.util

import pytest

from tests.conftest import Run

NAME = "vllm.model_executor.layers.rotary_embedding.base"
OURS = "import sys, functools, rope_target, rope_patch\n"
BASE = f"import {NAME} as base\n"
CALL = "print(base.Scaled()(1, 2, 3), *seen)\n"
STATE = "print(rope_patch.status()['targets']['rotary_embedding'])\n"

# What each brings, and what takes it away again. ``seen`` shows that its own hook fires as it does without us.
HOOKS = {
    "ddtrace": (
        "from ddtrace.internal.module import ModuleWatchdog\n"
        "ModuleWatchdog.install()\n"
        f"def fired(module): seen.append('hook')\nModuleWatchdog.register_module_hook({NAME!r}, fired)\n",
        "ModuleWatchdog.uninstall()\n",
    ),
    "ddtrace on vllm itself": (
        "from ddtrace.internal.module import ModuleWatchdog\n"
        "ModuleWatchdog.install()\n"
        "def fired(module): seen.append('hook')\nModuleWatchdog.register_module_hook('vllm', fired)\n",
        "ModuleWatchdog.uninstall()\n",
    ),
    "opentelemetry": (
        "from opentelemetry.instrumentation import auto_instrumentation\nauto_instrumentation.initialize()\n"
        f"import wrapt\nwrapt.register_post_import_hook(lambda module: seen.append('hook'), {NAME!r})\n",
        "",
    ),
    "wrapt": (
        f"import wrapt\nwrapt.register_post_import_hook(lambda module: seen.append('hook'), {NAME!r})\n",
        "",
    ),
    "lazy_loader": (
        "import warnings, lazy_loader\nwarnings.simplefilter('ignore')\n"
        "lazy_loader.load('vllm')\nseen.append('hook')\n",
        "",
    ),
    "typeguard": (
        "import typeguard\nhook = typeguard.install_import_hook(packages=['vllm'])\nseen.append('hook')\n",
        "hook.uninstall()\n",
    ),
    "beartype": (
        "import warnings, beartype.claw\nwarnings.simplefilter('ignore')\n"
        "beartype.claw.beartype_package('vllm')\nseen.append('hook')\n",
        "",
    ),
}


def _needs(name: str) -> None:
    module = name.partition(" ")[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not in this environment")


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("order", ["before us", "after us"])
@pytest.mark.parametrize("leaves", ["we leave first", "it leaves first"])
def test_another_import_hook_fires_as_without_us_and_we_serve_and_leave(
    with_doubles: Run, name: str, order: str, leaves: str
) -> None:
    _needs(name)
    comes, goes = HOOKS[name]
    code = "seen = []\n" + (comes + OURS if order == "before us" else OURS + comes)
    # What is imported next is the occasion to catch up where a hook found vLLM without asking anybody.
    code += BASE + "import iniconfig\n" + CALL
    ours = "rope_patch.disable()\n"
    code += (ours + goes if leaves == "we leave first" else goes + ours) + CALL
    code += "rope_patch.enable()\n" + CALL + STATE
    printed = with_doubles(code, DD_TRACE_ENABLED="false", DD_INSTRUMENTATION_TELEMETRY_ENABLED="false").splitlines()
    assert printed[-4:] == ["ours hook", "native hook", "ours hook", "applied"]


WRAPS = {
    "ddtrace": (
        "from ddtrace.internal.wrapping import wrap, unwrap\n"
        "def theirs(function, args, kwargs): return 'theirs+' + function(*args, **kwargs)\n"
        "wrapped = base.RotaryEmbedding.forward_oot\nwrap(wrapped, theirs)\n",
        "unwrap(wrapped, theirs)\n",
    ),
    "opentelemetry": (
        "import wrapt\nfrom opentelemetry.instrumentation.utils import unwrap\n"
        "def theirs(function, instance, args, kwargs): return 'theirs+' + function(*args, **kwargs)\n"
        "wrapt.wrap_function_wrapper(base, 'RotaryEmbedding.forward_oot', theirs)\n",
        "unwrap(base.RotaryEmbedding, 'forward_oot')\n",
    ),
    "wrapt": (
        "import wrapt\n@wrapt.decorator\n"
        "def theirs(function, instance, args, kwargs): return 'theirs+' + function(*args, **kwargs)\n"
        "wrapt.wrap_object(base, 'RotaryEmbedding.forward_oot', lambda old: theirs(old))\n",
        "base.RotaryEmbedding.forward_oot = base.RotaryEmbedding.__dict__['forward_oot'].__wrapped__\n",
    ),
    "beartype": (
        "import beartype\nold = base.RotaryEmbedding.forward_oot\n"
        "def theirs(self, *args: int) -> str: return 'theirs+' + old(self, *args)\n"
        "base.RotaryEmbedding.forward_oot = beartype.beartype(theirs)\n",
        "base.RotaryEmbedding.forward_oot = old\n",
    ),
}


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("leaves", ["we leave first", "it leaves first"])
def test_another_that_wraps_what_we_replaced_keeps_its_wrapper_and_off_is_off(
    with_doubles: Run, name: str, leaves: str
) -> None:
    _needs(name)
    comes, goes = WRAPS[name]
    code = (
        OURS
        + BASE
        + "seen = ()\n"
        + comes
        + CALL
        + STATE
        + "rope_patch.disable()\n"
        + CALL
        + "rope_patch.enable()\n"
        + CALL
    )
    ours = "rope_patch.disable()\n"
    code += (ours + goes if leaves == "we leave first" else goes + ours) + CALL + ours + CALL
    code += "print('forward_oot' in vars(base.RotaryEmbedding))\n"
    both, state, off, again, left, out, there = with_doubles(code).splitlines()[-7:]
    assert (both, off, again, left, out) == ("theirs+ours", "theirs+native", "theirs+ours", "native", "native")
    assert state.startswith("applied")
    assert there == "False"


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("leaves", ["we leave first", "it leaves first"])
def test_another_that_wrapped_before_us_stays_below_us(with_doubles: Run, name: str, leaves: str) -> None:
    _needs(name)
    comes, goes = WRAPS[name]
    code = "import sys, functools\n" + BASE + "seen = ()\n" + comes + OURS + CALL + "rope_patch.disable()\n" + CALL
    code += "rope_patch.enable()\n" + CALL
    ours = "rope_patch.disable()\n"
    code += (ours + goes if leaves == "we leave first" else goes + ours) + CALL
    on, off, again, left = with_doubles(code).splitlines()[-4:]
    assert (on, off, again) == ("ours", "theirs+native", "ours")
    # Theirs looks at the outermost function only, and does not find itself below ours.
    stays = leaves == "it leaves first" and name in ("opentelemetry", "wrapt")
    assert left == ("theirs+native" if stays else "native")


@pytest.mark.parametrize("when", ["rope_patch first", "pytest first"])
def test_beside_pytests_assertion_rewriting(with_doubles: Run, when: str) -> None:
    first = "import rope_target, rope_patch\n" if when == "rope_patch first" else ""
    code = f"""
{first}
import pathlib, pytest
pathlib.Path("test_it.py").write_text('''
import rope_target, rope_patch
import {NAME} as base
import tests.shapes  # what is imported next is the occasion to catch up
def test_it():
    assert base.Scaled()(1, 2, 3) == "ours"
    rope_patch.disable()
    assert base.Scaled()(1, 2, 3) == "native"
''')
pathlib.Path("conftest.py").write_text("import pytest; pytest.register_assert_rewrite('vllm')")
print(int(pytest.main(["-q", "-p", "no:cacheprovider", "test_it.py"])))
"""
    assert with_doubles(code).splitlines()[-1] == "0"
