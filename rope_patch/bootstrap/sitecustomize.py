"""With this file's folder on PYTHONPATH, every Python process imports ``rope_patch`` when it starts.

Python imports only the first ``sitecustomize`` on the path. If this file hides another one, it imports that one too.
It uses plain import statements, because importing ``importlib.util`` alone would double what this file costs.
"""

import os
import sys


def _activate() -> None:
    try:
        import rope_patch  # noqa: F401
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "rope_patch":
            return  # another environment's interpreter, where rope_patch is not installed
        sys.stderr.write(f"rope_patch: not active: {type(error).__name__}: {error}\n")


def _chain() -> None:
    """Import the hidden ``sitecustomize``. Its errors are not caught: Python reports them as it would without us."""
    here = os.path.dirname(os.path.abspath(__file__))
    ours = [(at, entry) for at, entry in enumerate(sys.path) if os.path.abspath(entry or os.curdir) == here]
    this = sys.modules.pop("sitecustomize")
    for _, entry in ours:
        sys.path.remove(entry)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        for at, entry in ours:
            sys.path.insert(at, entry)
        sys.modules.setdefault("sitecustomize", this)


_activate()
_chain()
