"""Have every process of this Python environment import rope_patch, by one .pth file in its site-packages.

For environments where neither vLLM's plugin (VLLM_PLUGINS closes it, say) nor PYTHONPATH reaches every process. The
file does nothing where VLLM_ASCEND_TRITON_ROPE is 0, off, false or no, nor once rope_patch is no longer installed.
`rope-patch uninstall` takes exactly it away again; pip uninstall does not.
"""

import argparse
import contextlib
import os
import sysconfig
from pathlib import Path

from rope_patch.cli.answer import Answer, Fault

NAME = "rope_patch.pth"
# One line, since site executes lines one by one; within it, the gates. site itself reports any other error and goes on.
LINE = (
    "import os; exec(\"if os.environ.get('VLLM_ASCEND_TRITON_ROPE', '').strip().lower() not in "
    "('0', 'off', 'false', 'no'):\\n try:\\n  import rope_patch\\n except ModuleNotFoundError as error:\\n"
    "  if error.name != 'rope_patch':\\n   raise\")  # written by rope-patch install\n"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Write the file; harmless twice; refuses a file of that name that it did not write."""
    file = place()
    if ours(file):
        return _answer(file, "unchanged", f"{file} was there already: every process of this environment has rope_patch")
    try:
        file.write_text(LINE)
    except OSError as error:
        with contextlib.suppress(OSError):
            if file.read_text() != LINE and LINE.startswith(file.read_text()):
                file.unlink()  # half of it
        raise Fault(f"cannot write {file}: {error.strerror}", 1) from error
    return _answer(file, "written", f"wrote {file}: every new process of this environment imports rope_patch")


def place() -> Path:
    """Where the file belongs in the environment of this interpreter."""
    return Path(sysconfig.get_path("purelib")) / NAME


def ours(file: Path) -> bool:
    """Whether the file is there, as this verb writes it.

    Raises:
        Fault: it is there, and is not.
    """
    if not os.path.lexists(file):
        return False
    if file.is_symlink() or not file.is_file() or file.read_text(errors="replace") != LINE:
        raise Fault(f"{file} was not written by this rope-patch install, and is left as it is", 1)
    return True


def _answer(file: Path, done: str, text: str) -> Answer:
    return Answer(ok=True, data={"file": str(file), "done": done}, text=text)
