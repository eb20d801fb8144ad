"""Have every process of this Python environment import rope_patch, by two files in its site-packages.

For environments where neither vLLM's plugin (VLLM_PLUGINS closes it, say) nor PYTHONPATH reaches every process. Up to
Python 3.14 rope_patch.pth is read; from 3.15 on rope_patch.start is, in its stead. Neither does anything where
VLLM_ASCEND_TRITON_ROPE is 0, off, false or no. `rope-patch uninstall` takes exactly them away again; pip uninstall does
not: run `rope-patch uninstall` first. A .pth left over does nothing; over a .start left over, Python 3.15 and newer
print an error whenever they start, and go on.
"""

import argparse
import contextlib
import os
import sysconfig
from pathlib import Path

from rope_patch.cli.answer import Answer, Fault

# One line, since site executes lines one by one; within it, the gates. site itself reports any other error and goes on.
PTH = (
    "import os; exec(\"if os.environ.get('VLLM_ASCEND_TRITON_ROPE', '').strip().lower() not in "
    "('0', 'off', 'false', 'no'):\\n try:\\n  import rope_patch\\n except ModuleNotFoundError as error:\\n"
    "  if error.name != 'rope_patch':\\n   raise\")  # written by rope-patch install\n"
)
START = "# written by rope-patch install\nrope_patch.startup:start\n"
# The .start last, and taken away first: its presence alone keeps Python from the lines of the .pth.
FILES = {"rope_patch.pth": PTH, "rope_patch.start": START}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Write the files, or what is missing of them; refuses, with neither touched, where one is somebody else's."""
    files = places()
    missing = [file for file in files if not whole(file)]
    written: list[Path] = []
    try:
        for file in missing:
            written.append(file)
            file.write_text(FILES[file.name])
    except OSError as error:
        for file in written:  # as it was before, if that can be had
            with contextlib.suppress(OSError, Fault):
                whole(file)
                file.unlink(missing_ok=True)
        raise Fault(f"cannot write {file}: {error.strerror}", 1) from error
    shown = " and ".join(map(str, files))
    if not missing:
        return _answer(
            files, "unchanged", f"{shown} were there already: every process of this environment has rope_patch"
        )
    return _answer(files, "written", f"wrote {shown}: every new process of this environment imports rope_patch")


def places() -> list[Path]:
    """Where the files belong in the environment of this interpreter."""
    return [Path(sysconfig.get_path("purelib")) / name for name in FILES]


def whole(file: Path) -> bool:
    """Whether the file is there as this verb writes it; False if it is not, or only the beginning of it.

    Raises:
        Fault: something else is there.
    """
    if not os.path.lexists(file):
        return False
    content = file.read_text(errors="replace") if file.is_file() and not file.is_symlink() else None
    if content is None or not FILES[file.name].startswith(content):
        raise Fault(f"{file} was not written by this rope-patch install, and is left as it is", 1)
    return content == FILES[file.name]


def _answer(files: list[Path], done: str, text: str) -> Answer:
    return Answer(ok=True, data={"files": [str(file) for file in files], "done": done}, text=text)
