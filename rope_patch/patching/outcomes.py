"""What became of every target, and the way back: taken back, half taken back, or lost in a reload. Knows no RoPE.

Written only by who holds the lock of ``hooks``.
"""

import contextlib
import sys

from rope_patch.patching.replace import SomebodyElses, Undo
from rope_patch.patching.targets import TARGETS, Target, executed_again
from rope_patch.reporting import log

LOST = "lost: its module was executed again (importlib.reload, say); rope_patch.enable() applies it anew"

undo: dict[str, Undo] = {}  # of what is applied, by target
state: dict[str, str] = {}  # of every target, in words
_half: set[str] = set()  # targets whose undoing failed half way; it is finished by the next that is asked to


def take_back(name: str) -> None:
    """Undo a target. Raises nothing: what fails half way is said, and can be finished."""
    _half.discard(name)
    try:
        undo[name]()
        del undo[name]
        state[name] = "taken back; what was already traced or captured stays"
        return
    except SomebodyElses as error:
        state[name] = f"not taken back: {error}"
    except Exception as error:
        _half.add(name)
        state[name] = f"half taken back, disable() again finishes it: {type(error).__name__}: {error}"
    log.warn_once(f"rope_patch: {name} {state[name]}")


def finish_halves() -> None:
    """Undo the rest of what is half taken back."""
    for name in list(_half):
        take_back(name)


def forget_lost() -> None:
    """Undo what is lost as far as it is there: of the classes that were replaced in turn, instances may live."""
    for target in filter(_lost, TARGETS):
        with contextlib.suppress(Exception):  # the new original is somebody else's; the old one is used no more
            undo.pop(target.name)()
        state[target.name] = "taken back"


def _lost(target: Target) -> bool:
    """Whether the originals are back, without anybody having undone anything."""
    return target.name in undo and executed_again(target.module)


def all_decided() -> bool:
    """Whether no target is left to wait for: of a package that is not in this process, none is."""
    return all(t.name in state or t.module.partition(".")[0] not in sys.modules for t in TARGETS)


def states() -> dict[str, str]:
    """What became of each target, for ``status``."""
    return {t.name: LOST if _lost(t) else state.get(t.name, "not imported") for t in TARGETS}


def summary() -> str:
    """What became of the targets, for the one INFO line."""
    applied = [target for target in TARGETS if target.name in undo]
    # Targets of one module are for different releases of it: where one is applied, why another is not is no news.
    settled = {target.module for target in applied}
    said = [f"{', '.join(target.name for target in applied)} applied"] if applied else []
    said += [f"{t.name} {state[t.name]}" for t in TARGETS if t.name in state and t.module not in settled]
    return "; ".join(said)
