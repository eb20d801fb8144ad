"""Have every process of this Python environment import rope_patch, by a file in its site-packages.

For environments where neither vLLM's plugin (VLLM_PLUGINS may exclude it) nor PYTHONPATH reaches every process. Under
VLLM_ASCEND_TRITON_ROPE=0 it imports rope_patch too, which then tells vLLM the variable's name and does nothing else.
`rope-patch uninstall` removes the file, rope_patch.pth; pip uninstall does not, so run `rope-patch uninstall` first. A
file that is left over does nothing.
"""

import argparse
import contextlib
import os
import re
import sysconfig
from pathlib import Path

from rope_patch.cli.answer import Answer, CannotAnswer

MARK = "# written by rope-patch install"
# One line after the mark, since site executes a .pth line by line; it skips comments. The line ignores a missing
# rope_patch. Any other error is reported by site, which then continues.
PTH = (
    f'{MARK}\nimport sys; exec("try:\\n import rope_patch\\nexcept ModuleNotFoundError as error:\\n'
    " if error.name != 'rope_patch':\\n  raise\")\n"
)
_COMPLETE = re.compile(rf"{MARK}\n[^\n]+\n")  # what any release writes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Write the file, unless it is there. Refuses if something else is."""
    file = place()
    if content(file) == PTH:
        return _answer(file, "unchanged", f"{file} was there already: every process here imports rope_patch")
    try:
        _put(file, PTH)
    except OSError as error:
        raise CannotAnswer(f"cannot write {file}: {error.strerror}", 1) from error
    return _answer(file, "written", f"wrote {file}: every new process of this environment imports rope_patch")


def place() -> Path:
    """The path of the file in this interpreter's environment."""
    return Path(sysconfig.get_path("purelib")) / "rope_patch.pth"


def content(file: Path) -> str | None:
    """The content of a file that `rope-patch install` of any release wrote; None if it is missing.

    Raises:
        CannotAnswer: `rope-patch install` did not write what is there.
    """
    if not os.path.lexists(file):
        return None
    try:
        text = file.read_text(errors="replace") if file.is_file() and not file.is_symlink() else ""
    except OSError as error:
        raise CannotAnswer(f"cannot read {file}: {error.strerror}", 1) from error
    if not _COMPLETE.fullmatch(text):
        raise CannotAnswer(f"{file} was not written by this rope-patch install, and is left as it is", 1)
    return text


def remains(file: Path) -> list[Path]:
    """What installs that were killed left beside the file."""
    return sorted(file.parent.glob(f".{file.name}.*.new"))


def _put(file: Path, text: str) -> None:
    """Write beside the file and rename, so that an interpreter that starts meanwhile never sees half of it."""
    beside = file.with_name(f".{file.name}.{os.urandom(8).hex()}.new")  # site executes no file of such a name
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _answer(file: Path, done: str, text: str) -> Answer:
    return Answer(ok=True, data={"file": str(file), "done": done}, text=text)
