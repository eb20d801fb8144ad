"""What became of each target in this process, as it is at this moment.

Only code that holds the lock of ``hooks`` changes these. Knows nothing of RoPE.
"""

import sys
from importlib.machinery import PathFinder

from rope_patch.patching.replacement import Replacement
from rope_patch.patching.targets import Target
from rope_patch.reporting import log
from rope_patch.settings import NATIVE, current

ABSENT = "native: this release has no such module"
AS_SET = f"as {NATIVE} says"


class Outcome:
    """What became of one target: its replacement, or the reason why there is none."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.replacement: Replacement | None = None
        self.reason = ""  # "native: …" or "failed: …"; empty while the target is not decided
        self.fault = ""  # what went wrong when the replacement was taken back

    def left_native(self) -> bool:
        """Whether the operator asked for that."""
        return self.target.name in current().native

    def serves(self) -> bool:
        """Whether calls come to our function."""
        return self.replacement is not None and self.replacement.serves()

    def take_back(self) -> None:
        """Switch the replacement off and undo it. Raises nothing: a fault is logged, and a second call goes on."""
        if self.replacement is None:
            return
        self.fault = ""
        try:
            self.replacement.undo()
        except Exception as error:
            self.fault = f"off, half taken back, call disable() again to finish: {type(error).__name__}: {error}"
            log.warn_once(f"rope_patch: {self.target.name} {self.fault}")

    def state(self) -> str:
        """In words, for ``status``."""
        if self.fault:
            return self.fault
        if self.replacement is not None:
            return self.replacement.state()
        return self.reason or (ABSENT if self._cannot_come() else "not imported")

    def decided(self) -> bool:
        """Whether there is an outcome, or can be none. A package that this process did not import does not count."""
        package = self.target.module.partition(".")[0]
        settled = self.replacement is not None or bool(self.reason)
        return settled or self._cannot_come() or package not in sys.modules

    def _cannot_come(self) -> bool:
        """Whether there is no such module in this release, as the nearest of its packages that is imported tells.

        Before 0.10, vLLM's rotary classes were in one module, not a package.
        """
        name = self.target.module
        while name := name.rpartition(".")[0]:
            package = sys.modules.get(name)
            if package is not None:
                missing = name + "." + self.target.module[len(name) + 1 :].partition(".")[0]
                place = getattr(package, "__path__", None)
                return place is None or (missing not in sys.modules and PathFinder.find_spec(missing, place) is None)
        return False


def summary(outcomes: list[Outcome]) -> str:
    """All outcomes, for the one INFO line."""
    applied = [one for one in outcomes if one.serves()]
    # Of targets for different releases some are applied; the line says of others only that they failed, or that they
    # were not wanted.
    settled = {one.target.one_of for one in applied if one.target.one_of}
    said = [f"{', '.join(one.target.name for one in applied)} applied"] if applied else []
    left = [one for one in outcomes if one not in applied and (one.reason or one.replacement)]
    native = [
        one for one in left if one.target.one_of not in settled or one.left_native() or one.reason.startswith("failed")
    ]
    said += [f"{one.target.name} {one.state()}" for one in native]
    return "; ".join(said)
