"""Applies each target when its module has been imported, and takes it back. Knows nothing of RoPE."""

import functools
import os
import sys
import threading
from types import ModuleType

from rope_patch import capability
from rope_patch.environment import VERSION
from rope_patch.patching import import_watch, outcomes
from rope_patch.patching.replace import Undo, stale_bindings
from rope_patch.patching.targets import TARGETS, NotApplicable, Target, environment_variable, executed_again, remember
from rope_patch.reporting import announcement, ledger, log
from rope_patch.reporting.status import Status
from rope_patch.settings import VARIABLE, Mode, Settings, current

# Held while something is replaced or put back. Never held while a module is imported or vLLM's platform is asked, which
# imports modules too: the thread that holds such a module's import lock may be waiting for this lock.
_lock = threading.RLock()
_settings: Settings | None = None  # None until ``arm`` is called
_enabled = True
_verdict: capability.Verdict | None = None  # None until the first target's module is imported
_forget_variable: Undo | None = None
_announced_by: int | None = None  # the process that logged the INFO line; a fork of it has to log its own
not_capable: capability.NotCapable | None = None  # the error under ``force``, for the plugin to raise again


def arm(settings: Settings) -> None:
    """Apply every target when its module is imported, or now if it was. Only the first call counts."""
    global _settings
    with _lock:
        if _settings is not None:
            return
        _settings = settings
        announcement.say = announce
    import wrapt

    if settings.environment:  # vLLM will check whether it knows the variables that are set
        wrapt.register_post_import_hook(_make_variable_known, environment_variable.MODULE)
    for target in TARGETS:
        _watch(target)


def enable() -> None:
    """See ``rope_patch.enable``."""
    global _enabled
    if current().mode is Mode.OFF:
        log.logger.info("rope_patch: enable() does nothing under %s=%s", VARIABLE, current().value)
        return
    with _lock:
        _enabled = True
        outcomes.finish_halves()
        if _settings is None:
            return  # vLLM is not there yet
        _forget_lost()
    for target in TARGETS:
        module = sys.modules.get(target.module)
        if module is not None and not import_watch.when_complete(module, functools.partial(_at_import, target, module)):
            _apply(target, module)


def disable() -> None:
    """See ``rope_patch.disable``."""
    global _enabled, _forget_variable, not_capable
    with _lock:
        _enabled = False
        _forget_lost()
        not_capable = None
        for finder in [finder for finder in sys.meta_path if isinstance(finder, _FailingImport)]:
            sys.meta_path.remove(finder)
        for name in list(outcomes.undo):
            outcomes.take_back(name)
        if _forget_variable and not outcomes.undo and _settings and not _settings.environment:
            _forget_variable()
            _forget_variable = None


def _forked() -> None:
    """Make a new lock: in the child, the thread that may have held it does not exist.

    What that thread had begun is finished by the next ``enable`` or ``disable``.
    """
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)


def status() -> Status:
    """See ``rope_patch.status``."""
    settings = current()
    return Status(
        version=VERSION,
        setting=settings.value,
        mode=settings.mode.value,
        enabled=_enabled and settings.mode is not Mode.OFF,
        capable=_verdict.capable if _verdict else None,
        reason=_reason(settings),
        targets=outcomes.states(),
        calls=dict(ledger.calls()),
        fallbacks=dict(ledger.fallbacks()),
        signatures=ledger.signatures(),
        stale={place: names for place, names in stale_bindings.items() if names},
        environment=dict(settings.environment),
        note="Counts are what the host saw: replayed graphs run without it.",
    )


def _forget_lost() -> None:
    """Forget the replacements that a reload removed, and make vLLM know the variable again."""
    global _forget_variable
    outcomes.forget_lost()
    if executed_again(environment_variable.MODULE):
        _forget_variable = None
        _make_variable_known(sys.modules[environment_variable.MODULE])


def _reason(settings: Settings) -> str:
    if settings.mode is Mode.OFF:
        return "; ".join(settings.complaints) or f"switched off by {VARIABLE}={settings.value}"
    return _verdict.reason if _verdict else "not examined: no target was imported yet"


def _watch(target: Target) -> None:
    import wrapt

    def imported(module: ModuleType) -> None:
        # wrapt calls this before the import has ended; during registration even before the module has been executed.
        if not import_watch.when_complete(module, functools.partial(_at_import, target, module)):
            _apply(target, module)

    wrapt.register_post_import_hook(imported, target.module)


def _at_import(target: Target, module: ModuleType) -> None:
    """Apply at the end of the module's import. Under ``force`` a missing capability makes it and later imports fail."""
    try:
        _apply(target, module)
    except capability.NotCapable as error:
        sys.modules.pop(target.module, None)
        sys.meta_path.insert(0, _FailingImport(target.module, error))
        raise


class _FailingImport:
    """Under ``force``, makes every later import of a module fail as the first did."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name, self.error = name, error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.name:
            raise self.error


def _apply(target: Target, module: ModuleType) -> None:
    """Apply one target. Logs whatever goes wrong, and raises only ``NotCapable`` under ``force``."""
    global _verdict, not_capable
    if not _enabled or target.name in outcomes.undo:
        return
    verdict = _verdict or capability.examine()
    failure: Exception | None = None
    try:
        if verdict.capable:
            target.load()
    except Exception as error:
        failure = error
    with _lock:
        if not _enabled or target.name in outcomes.undo:
            return
        _verdict = verdict
        if not verdict.capable:
            outcomes.state[target.name] = f"native: {verdict.reason}"
            if _settings and _settings.mode is Mode.FORCE:
                not_capable = capability.NotCapable(f"{VARIABLE}=force, but {verdict.reason}")
                raise not_capable
        else:
            try:
                if failure:
                    raise failure
                outcomes.undo[target.name] = target.install(module, _settings or current())
                outcomes.state[target.name] = "applied"
                remember(module)
                _make_variable_known(sys.modules[environment_variable.MODULE])
            except NotApplicable as error:
                outcomes.state[target.name] = f"native: {error}"
            except Exception as error:
                outcomes.state[target.name] = f"failed: {type(error).__name__}: {error}"
                log.warn_once(f"rope_patch: {target.name} {outcomes.state[target.name]}; vLLM serves natively")
    if not verdict.capable or outcomes.all_decided():
        announce()


def announce() -> None:
    """Log this process's one INFO line: when all targets are decided, or at first use if a module is never imported."""
    global _announced_by  # without the lock: in a forked process, the thread that holds it may not exist
    if _announced_by != os.getpid() and _verdict is not None:
        _announced_by = os.getpid()
        outcome = f"{outcomes.summary()} ({_verdict.reason})" if _verdict.capable else f"native: {_verdict.reason}"
        log.logger.info("rope_patch %s: %s", VERSION, outcome)


def _applied() -> list[str]:
    """What makes graphs differ from those of an unpatched process: the mode, and the targets that are applied."""
    return [current().mode.value, *sorted(outcomes.undo)] if outcomes.undo else []


def _make_variable_known(module: ModuleType) -> None:
    global _forget_variable
    if import_watch.when_complete(module, functools.partial(_make_variable_known, module)):
        return
    try:
        with _lock:
            if _forget_variable is None:
                _forget_variable = environment_variable.install(module, _applied)
                remember(module)
    except Exception as error:
        log.warn_once(f"rope_patch: {VARIABLE} stays unknown to vLLM: {type(error).__name__}: {error}")
