"""When a module appears, which target to apply; what is applied; applying and undoing it. Knows no RoPE."""

import functools
import sys
import threading
from types import ModuleType
from typing import TypedDict

import wrapt

from rope_patch import __version__, capability, report, trigger
from rope_patch.replace import SomebodyElses, Undo
from rope_patch.settings import VARIABLE, Mode, Settings, parse
from rope_patch.targets import TARGETS, NotApplicable, Target, environment_variable

_lock = threading.RLock()
_settings: Settings | None = None  # None until vLLM is looked for
_enabled = True
_verdict: capability.Verdict | None = None  # None until the first target's module is imported
_undo: dict[str, Undo] = {}  # of what is applied, by target
_state: dict[str, str] = {}  # of every target, in words
_forget_variable: Undo | None = None


class Status(TypedDict):
    """What ``rope_patch.status()`` returns: plain data."""

    version: str
    setting: str | None
    mode: str
    enabled: bool
    capable: bool | None  # None: not examined, since no target's module was imported yet
    reason: str
    targets: dict[str, str]
    calls: dict[str, int]
    fallbacks: dict[str, int]
    signatures: dict[str, str | None]
    note: str


def arm(settings: Settings) -> None:
    """Apply every target when its module is imported, or now if it was. Only the first call counts."""
    global _settings
    with _lock:
        if _settings is not None:
            return
        _settings = settings
    if settings.value is not None:  # somebody set it, so vLLM will look whether it knows it
        wrapt.register_post_import_hook(_make_variable_known, environment_variable.MODULE)
    for target in TARGETS:
        _watch(target)


def enable() -> None:
    """See ``rope_patch.enable``."""
    global _enabled
    if parse(trigger.setting).mode is Mode.OFF:
        report.logger.info("rope_patch: enable() does nothing under %s=%s", VARIABLE, trigger.setting)
        return
    with _lock:
        _enabled = True
        if _settings is None:
            return  # vLLM is not there yet
        for target in TARGETS:
            module = sys.modules.get(target.module)
            if module is not None and not trigger.when_complete(module, functools.partial(_apply, target, module)):
                _apply(target, module)


def disable() -> None:
    """See ``rope_patch.disable``."""
    global _enabled, _forget_variable
    with _lock:
        _enabled = False
        for name in list(_undo):
            try:
                _undo.pop(name)()
                _state[name] = "taken back; what was already traced or captured stays"
            except SomebodyElses as error:
                _state[name] = f"not taken back: {error}"
                report.warn_once(f"rope_patch: {name} {_state[name]}")
        if _forget_variable and _settings and _settings.value is None:
            _forget_variable()
            _forget_variable = None


def status() -> Status:
    """See ``rope_patch.status``."""
    settings = _settings or parse(trigger.setting)
    return Status(
        version=__version__,
        setting=settings.value,
        mode=settings.mode.value,
        enabled=_enabled and settings.mode is not Mode.OFF,
        capable=_verdict.capable if _verdict else None,
        reason=settings.complaint or (_verdict.reason if _verdict else "not examined: no target was imported yet"),
        targets={target.name: _state.get(target.name, "not imported") for target in TARGETS},
        calls=dict(report.calls),
        fallbacks=dict(report.fallbacks),
        signatures=dict(report.signatures),
        note="Counts are what the host saw: replayed graphs run without it.",
    )


def _watch(target: Target) -> None:
    registering = True

    def imported(module: ModuleType) -> None:
        apply = functools.partial(_guarded_apply, target, module)
        # A hook called while it is registered may meet half a module; called later, one that has just been executed.
        if not (registering and trigger.when_complete(module, apply)):
            apply()

    wrapt.register_post_import_hook(imported, target.module)
    registering = False


def _guarded_apply(target: Target, module: ModuleType) -> None:
    """Apply. Whatever goes wrong stays here, but for what ``force`` asked for."""
    try:
        _apply(target, module)
    except capability.NotCapable as error:
        # wrapt forgets its hooks once they have run, and a second import would succeed unpatched.
        sys.meta_path.insert(0, _Refusing(target.module, error))
        raise
    except Exception as error:
        _state[target.name] = f"failed: {type(error).__name__}: {error}"
        report.warn_once(f"rope_patch: {target.name} {_state[target.name]}; vLLM serves natively")


class _Refusing:
    """Makes every later import of a module fail as the first did, under ``force``."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name, self.error = name, error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.name:
            raise self.error


def _apply(target: Target, module: ModuleType) -> None:
    global _verdict
    with _lock:
        if not _enabled or target.name in _undo:
            return
        if _verdict is None:
            _verdict = capability.examine()
        if not _verdict.capable:
            _state[target.name] = f"native: {_verdict.reason}"
            if _settings and _settings.mode is Mode.FORCE:
                raise capability.NotCapable(f"{VARIABLE}=force, but {_verdict.reason}")
        else:
            try:
                _undo[target.name] = target.install(module)
                _state[target.name] = "applied"
                _make_variable_known(sys.modules[environment_variable.MODULE])
            except NotApplicable as error:
                _state[target.name] = f"native: {error}"
        report.logger.info("rope_patch %s: %s %s (%s)", __version__, target.name, _state[target.name], _verdict.reason)


def _make_variable_known(module: ModuleType) -> None:
    global _forget_variable
    if trigger.when_complete(module, functools.partial(_make_variable_known, module)):
        return
    try:
        with _lock:
            if _forget_variable is None:
                _forget_variable = environment_variable.install(module, lambda: list(_undo))
    except Exception as error:
        report.warn_once(f"rope_patch: {VARIABLE} stays unknown to vLLM: {type(error).__name__}: {error}")
