"""Wait for vLLM, at no cost to a process that never imports it: the standard library only, and little of it.

wrapt takes 70 to 120 ms to import. So a finder that finds nothing stands first on ``sys.meta_path`` until somebody
looks for ``vllm``; then, before vLLM is loaded, ``hooks`` is imported and takes over.
"""

import sys

setting: str | None = None  # the environment variable as it was when rope_patch was imported


class Finder:
    """Never finds a module; notices that ``vllm`` is looked for."""

    armed = True

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        # It is never removed: the import system is walking the list that it would have to be removed from.
        if name == "vllm" and self.armed:
            self.armed = False
            start()


def watch(value: str | None) -> None:
    """Call ``start`` as soon as vLLM is looked for; at once if it was already."""
    global setting
    setting = value
    if "vllm" in sys.modules:
        start()
    else:
        sys.meta_path.insert(0, Finder())


def start() -> None:
    """Hand over to ``hooks``, unless switched off. Never raises: a failure is logged, and vLLM left as it is."""
    try:
        from rope_patch.settings import Mode, parse

        settings = parse(setting)
        if settings.complaint:
            _log(settings.complaint)
        elif settings.mode is not Mode.OFF:
            from rope_patch import hooks

            hooks.arm(settings)
    except Exception as error:
        _log(f"not active: {type(error).__name__}: {error}. vLLM is as it was.")


def _log(message: str) -> None:
    import logging

    logging.getLogger("vllm.rope_patch").warning("rope_patch: %s", message)


def when_complete(module: object, action: object) -> bool:
    """Call ``action`` once ``module``, being imported right now, is complete; False if it is complete already.

    wrapt calls its hooks at once for whatever stands in ``sys.modules``, half-initialised modules too. The import
    system announces completion nowhere, but marks it: it sets ``_initializing`` on the module's spec to False when the
    import ends, well or badly. Giving that one spec a class that notices the assignment is synchronous, in the
    importing thread, and needs no polling.
    """
    spec = getattr(module, "__spec__", None)
    if not getattr(spec, "_initializing", False):
        return False
    plain: type = type(spec)

    class Announcing(plain):  # type: ignore[misc]
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "_initializing" and not value:
                object.__setattr__(self, "__class__", plain)
                if sys.modules.get(self.name) is module:  # else the import failed
                    action()  # type: ignore[operator]

    spec.__class__ = Announcing
    return True
