"""When each target is applied, and when it is taken back. Knows nothing of RoPE."""

import functools
import importlib
import os
import sys
import threading
from types import ModuleType

from rope_patch import capability
from rope_patch.environment import VERSION
from rope_patch.patching import import_watch, outcomes
from rope_patch.patching.outcomes import Outcome
from rope_patch.patching.targets import TARGETS, NotApplicable, environment_variable, ray_driver
from rope_patch.reporting import announcement, ledger, log
from rope_patch.reporting.form import Status
from rope_patch.settings import VARIABLE, Mode, Settings, current


class Patch:
    """What rope_patch does in this process. There is one, ``patch``.

    ``lock`` is held while something is replaced or put back. It is never held while a module is imported or vLLM's
    platform is asked, which imports modules too: the thread that holds such a module's import lock may be waiting for
    this lock. So what replacing imports is imported before.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.settings: Settings | None = None  # None until ``arm``
        self.enabled = True
        self.verdict: capability.Verdict | None = None  # None until the first target's module is imported
        self.outcomes = [Outcome(target) for target in TARGETS]
        self.variables = environment_variable.KnownVariables(self._serving)
        self.not_capable: capability.NotCapable | None = (
            None  # the error under ``force``, for the plugin to raise again
        )

    def arm(self, settings: Settings) -> None:
        """Apply every target whenever the import of its module ends, and now if it has. Only the first call counts.

        Switched off, nothing is replaced: vLLM learns the names of our variables, and the INFO line says "off".
        """
        if self.settings is not None:
            return
        self.settings = settings
        finder = import_watch.the_finder()
        finder.leaving.append(_leave)
        finder.on_import(environment_variable.MODULE, self._make_variables_known)
        if settings.mode is Mode.OFF:
            finder.on_import(ray_driver.MODULE, ray_driver.imported)
        for outcome in self.outcomes:
            finder.on_import(outcome.target.module, functools.partial(self._decide, outcome))

    def enable(self) -> None:
        """See ``rope_patch.enable``."""
        if current().mode is Mode.OFF:
            log.logger.info("rope_patch: enable() does nothing: %s", current().why_off)
            return
        with self.lock:
            self.enabled = True
            if self.settings is None:
                return  # vLLM is not there yet
            if self.verdict is not None and not self.verdict.capable:
                self.verdict = None  # what was missing may be there now
        for name in dict.fromkeys((environment_variable.MODULE, *(one.target.module for one in self.outcomes))):
            import_watch.the_finder().look(name)

    def disable(self) -> None:
        """See ``rope_patch.disable``."""
        with self.lock:
            self.enabled = False
            self.not_capable = None
            for outcome in self.outcomes:
                outcome.take_back()
            if self.settings and not self.settings.environment:
                self.variables.undo()

    def status(self) -> Status:
        """See ``rope_patch.status``."""
        settings = current()
        replacements = [one.replacement for one in self.outcomes if one.replacement]
        return Status(
            version=VERSION,
            setting=settings.value,
            mode=settings.mode.value,
            enabled=self.enabled and settings.mode is not Mode.OFF,
            capable=self.verdict.capable if self.verdict else None,
            reason=self._reason(),
            targets={one.target.name: one.state() for one in self.outcomes},
            calls=dict(ledger.calls()),
            fallbacks=dict(ledger.fallbacks()),
            signatures=ledger.signatures(),
            stale={one.path: list(one.stale) for one in replacements if one.stale},
            environment=dict(settings.environment),
            note="Counts are what the host saw: replayed graphs run without it.",
        )

    def _reason(self) -> str:
        if current().mode is Mode.OFF:
            return current().why_off
        return self.verdict.reason if self.verdict else "not examined: no target was imported yet"

    def _decide(self, outcome: Outcome, module: ModuleType) -> None:
        """Apply one target, or say why not. Logs whatever goes wrong, and raises only ``NotCapable`` under ``force``.

        Raised while the target's module is imported, that makes the import fail, and each later one again.
        """
        try:
            self._apply(outcome, module)
        except capability.NotCapable:
            raise
        except Exception as error:
            outcome.reason = f"failed: {type(error).__name__}: {error}"
            log.warn_once(f"rope_patch: {outcome.target.name} {outcome.reason}; vLLM serves natively")

    def _apply(self, outcome: Outcome, module: ModuleType) -> None:
        if not self.enabled or outcome.serves():
            return
        if current().mode is Mode.OFF:
            outcome.reason = f"native: {self._reason()}"
            return self._announce(f"off: {self._reason()}; vLLM serves natively", now=True)
        verdict = self.verdict if self.verdict and self.verdict.certain else capability.examine()
        failure: Exception | None = None
        try:
            if verdict.capable and not outcome.left_native():
                outcome.target.load()
                importlib.import_module("wrapt")
        except Exception as error:
            failure = error
        with self.lock:
            if not self.enabled or outcome.serves():
                return
            self.verdict = verdict
            if verdict.capable:
                self._replace(outcome, module, failure)
                line = f"{outcomes.summary(self.outcomes)} ({verdict.reason})"
            else:
                outcome.reason = line = f"native: {verdict.reason}"
                if current().mode is Mode.FORCE:
                    self.not_capable = capability.NotCapable(f"{VARIABLE}=force, but {verdict.reason}")
                    raise self.not_capable
        self._announce(line, now=not verdict.capable or all(one.decided() for one in self.outcomes))

    def _replace(self, outcome: Outcome, module: ModuleType, failure: Exception | None) -> None:
        """Put a target's replacement in place: the one from before if it still fits there, else a new one."""
        try:
            if failure:
                raise failure
            if outcome.left_native():
                raise NotApplicable(outcomes.AS_SET)
            earlier = outcome.replacement
            # Upstream's module may have changed meanwhile: then the target refuses it. A wrapper of ours is no change.
            made = outcome.target.replacement(module, current()) if earlier is None or not earlier.is_called() else None
            if earlier is None or not earlier.resume():
                outcome.take_back()
                outcome.replacement = made or outcome.target.replacement(module, current())
                outcome.replacement.install(earlier)
            outcome.reason = outcome.fault = ""
            if envs := sys.modules.get(environment_variable.MODULE):
                self._make_variables_known(envs)
            return
        except NotApplicable as error:
            reason = f"native: {error}"
        except Exception as error:
            reason = f"failed: {type(error).__name__}: {error}"
            log.warn_once(f"rope_patch: {outcome.target.name} {reason}; vLLM serves natively")
        outcome.take_back()
        outcome.replacement, outcome.reason = None, reason

    def _announce(self, line: str, now: bool) -> None:
        announcement.line = line
        if now:
            announcement.announce()

    def _serving(self) -> list[str]:
        """What makes graphs differ from those of an unpatched process: the mode, and the targets that are on.

        What is on but not in place is said with its state: whether others still call it cannot always be told, and a
        graph of such a process must not be taken for one with it, nor for one without.
        """
        on = [one for one in self.outcomes if one.replacement and one.replacement.on]
        names = sorted(one.target.name + ("" if one.serves() else f" ({one.state()})") for one in on)
        return [current().mode.value, *names] if names else []

    def _make_variables_known(self, envs: ModuleType) -> None:
        """If one is set, since vLLM checks whether it knows those; or if something serves, for its compile cache."""
        try:
            if current().environment or self._serving():
                self.variables.install(envs)
        except Exception as error:
            log.warn_once(f"rope_patch: {VARIABLE} stays unknown to vLLM: {type(error).__name__}: {error}")


patch: Patch = globals().get("patch") or Patch()  # the same one after this module was reloaded


def _leave() -> None:
    """Take everything back and forget it: another copy of rope_patch, imported after this one, takes over."""
    global patch
    patch.disable()
    patch.variables.undo()
    patch = Patch()


def _forked() -> None:
    """Make a new lock: in the child, the thread that may have held it does not exist.

    What that thread had begun is finished by the next ``enable`` or ``disable``.
    """
    patch.lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)
