"""Have every process of this Python environment import rope_patch, by two files in its site-packages.

For environments where neither vLLM's plugin (VLLM_PLUGINS may exclude it) nor PYTHONPATH reaches every process. Python
up to 3.14 reads rope_patch.pth, newer ones read rope_patch.start instead. Neither does anything where
VLLM_ASCEND_TRITON_ROPE is 0, off, false or no. `rope-patch uninstall` removes these two files; pip uninstall does not,
so run `rope-patch uninstall` first. A .pth file that is left over does nothing; if a .start file is left over, Python
3.15 and newer print an error whenever they start, and continue.
"""

import argparse
import contextlib
import os
import re
import sysconfig
from pathlib import Path

from rope_patch.cli.answer import Answer, CannotAnswer

MARK = "# written by rope-patch install"
# One line after the mark, since site executes a .pth line by line; it skips comments. The line tests the kill switch
# and ignores a missing rope_patch. Any other error is reported by site, which then continues.
PTH = (
    f"{MARK}\nimport os; exec(\"if os.environ.get('VLLM_ASCEND_TRITON_ROPE', '').strip().lower() not in "
    "('0', 'off', 'false', 'no'):\\n try:\\n  import rope_patch\\n except ModuleNotFoundError as error:\\n"
    "  if error.name != 'rope_patch':\\n   raise\")\n"
)
START = f"{MARK}\nrope_patch.startup:start\n"
# The .start is written last and removed first: where it exists, Python 3.15 does not execute the lines of the .pth.
FILES = {"rope_patch.pth": PTH, "rope_patch.start": START}
# What any release wrote: the mark and then any one line; in the first releases' .pth, the line and then the mark.
_COMPLETE = re.compile(rf"{MARK}\n[^\n]+\n|[^\n]+  {MARK}\n")
_BEGUN = re.compile(rf"{MARK}\n[^\n]*")  # left by an install that was killed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Write those files that are missing or from another release.

    If one of them was not written by `rope-patch install`, refuses and touches neither.
    """
    files = places()
    before = {file: content(file) for file in files}
    missing = [file for file in files if before[file] != FILES[file.name]]
    try:
        for file in missing:
            file.write_text(FILES[file.name])
    except OSError as error:
        for changed in missing:  # restore, as far as that is possible
            with contextlib.suppress(OSError, CannotAnswer):
                _put_back(changed, before[changed])
        raise CannotAnswer(f"cannot write {file}: {error.strerror}", 1) from error
    shown = " and ".join(map(str, files))
    if not missing:
        return _answer(
            files, "unchanged", f"{shown} were there already: every process of this environment imports rope_patch"
        )
    return _answer(files, "written", f"wrote {shown}: every new process of this environment imports rope_patch")


def places() -> list[Path]:
    """The paths of the files in this interpreter's environment."""
    return [Path(sysconfig.get_path("purelib")) / name for name in FILES]


def content(file: Path) -> str | None:
    """The content of a file that `rope-patch install` of any release wrote, or began to write; None if it is missing.

    Raises:
        CannotAnswer: `rope-patch install` did not write what is there.
    """
    if not os.path.lexists(file):
        return None
    try:
        text = file.read_text(errors="replace") if file.is_file() and not file.is_symlink() else None
    except OSError as error:
        raise CannotAnswer(f"cannot read {file}: {error.strerror}", 1) from error
    if text is None or not (_COMPLETE.fullmatch(text) or _BEGUN.fullmatch(text) or MARK.startswith(text)):
        raise CannotAnswer(f"{file} was not written by this rope-patch install, and is left as it is", 1)
    return text


def complete(file: Path) -> bool:
    """Whether the file is there as any release wrote it, so that it imports rope_patch. Raises as ``content`` does."""
    return _COMPLETE.fullmatch(content(file) or "") is not None


def _put_back(file: Path, before: str | None) -> None:
    if content(file) == before:
        return
    if before is None:
        file.unlink()
    else:
        file.write_text(before)


def _answer(files: list[Path], done: str, text: str) -> Answer:
    return Answer(ok=True, data={"files": [str(file) for file in files], "done": done}, text=text)
