"""Put this file's folder on PYTHONPATH, and every Python process started there imports ``rope_patch``.

Python imports the first ``sitecustomize`` on the path only, so the one that this hides, if any, is imported from here.
Plain imports throughout: ``importlib.util`` alone would double what this costs.
"""

import os
import sys


def _activate() -> None:
    try:
        import rope_patch  # noqa: F401
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "rope_patch":
            return  # another environment's interpreter: none of our business
        sys.stderr.write(f"rope_patch: not active: {type(error).__name__}: {error}\n")


def _chain() -> None:
    """Import the hidden ``sitecustomize``; its errors are its own, and Python reports them as it would without us."""
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
