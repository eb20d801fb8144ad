"""Put this file's folder on PYTHONPATH, and every Python process started there imports ``rope_patch``.

Python imports the first ``sitecustomize`` on the path, so the next one, if there is one, is run from here.
"""

import os
import sys


def _chain() -> None:
    """Run the ``sitecustomize`` that this one hides, as if this one were not there."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module  # what the next one's own code, and everybody after it, expects to find
    spec.loader.exec_module(module)


try:
    import rope_patch  # noqa: F401
except Exception as error:  # another interpreter's environment, say: not a reason to disturb the host
    if not isinstance(error, ModuleNotFoundError):
        sys.stderr.write(f"rope_patch: not active: {type(error).__name__}: {error}\n")
_chain()  # unguarded: an error of the user's own sitecustomize is reported by Python as it would be without us
