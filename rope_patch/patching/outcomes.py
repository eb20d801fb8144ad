"""The state of every target, and how to undo it: applied, taken back, half taken back, or lost in a reload.

Only code that holds the lock of ``hooks`` changes these. Knows nothing of RoPE.
"""

import contextlib
import sys

from rope_patch.patching.replace import ReplacedAgain, Undo
from rope_patch.patching.targets import TARGETS, Target, executed_again
from rope_patch.reporting import log

LOST = "lost: its module was executed again (importlib.reload, say); rope_patch.enable() applies it again"

undo: dict[str, Undo] = {}  # for each applied target, the function that undoes it
state: dict[str, str] = {}  # of each target, in words
_half: set[str] = set()  # targets whose undoing failed half way; the next ``take_back`` finishes it


def take_back(name: str) -> None:
    """Undo a target. Raises nothing: if it fails half way, the state and a WARNING say so, and a second call finishes
    it."""
    _half.discard(name)
    try:
        undo[name]()
        del undo[name]
        state[name] = "taken back; what was already traced or captured stays"
        return
    except ReplacedAgain as error:
        state[name] = f"not taken back: {error}"
    except Exception as error:
        _half.add(name)
        state[name] = f"half taken back, call disable() again to finish: {type(error).__name__}: {error}"
    log.warn_once(f"rope_patch: {name} {state[name]}")


def finish_halves() -> None:
    """Finish undoing the targets that are half taken back."""
    for name in list(_half):
        take_back(name)


def forget_lost() -> None:
    """Undo lost targets as far as possible: instances of the class from before the reload may still be alive."""
    for target in filter(_lost, TARGETS):
        with contextlib.suppress(Exception):  # the reloaded module has the original already
            undo.pop(target.name)()
        state[target.name] = "taken back"


def _lost(target: Target) -> bool:
    """Whether a reload of its module has removed the replacement."""
    return target.name in undo and executed_again(target.module)


def _cannot_come(target: Target) -> bool:
    """Whether the module cannot be imported: before 0.10, vLLM's rotary classes were in one module, not a package."""
    parent = sys.modules.get(target.module.rpartition(".")[0])
    return parent is not None and not hasattr(parent, "__path__")


def all_decided() -> bool:
    """Whether every target has a state or cannot have one, not counting packages that this process did not import."""
    return all(t.name in state or _cannot_come(t) or t.module.partition(".")[0] not in sys.modules for t in TARGETS)


def states() -> dict[str, str]:
    """The state of each target, for ``status``."""
    absent = {t.name: "native: this release has no such module" for t in TARGETS if _cannot_come(t)}
    return {t.name: LOST if _lost(t) else state.get(t.name, absent.get(t.name, "not imported")) for t in TARGETS}


def summary() -> str:
    """The states of the targets, for the one INFO line."""
    applied = [target for target in TARGETS if target.name in undo]
    # Of targets for different releases some are applied; the line says of others only that they failed.
    settled = {target.one_of for target in applied if target.one_of}
    said = [f"{', '.join(target.name for target in applied)} applied"] if applied else []
    left = [t for t in TARGETS if t.name in state and t not in applied]
    native = [t for t in left if t.one_of not in settled or state[t.name].startswith("failed")]
    said += [f"{target.name} {state[target.name]}" for target in native]
    return "; ".join(said)
