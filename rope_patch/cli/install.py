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
import re
import sysconfig
from pathlib import Path

from rope_patch.cli.answer import Answer, Fault

MARK = "# written by rope-patch install"
# After the mark, one line: site executes lines one by one, and skips comments. Within the line, the gates. site itself
# reports any other error and goes on.
PTH = (
    f"{MARK}\nimport os; exec(\"if os.environ.get('VLLM_ASCEND_TRITON_ROPE', '').strip().lower() not in "
    "('0', 'off', 'false', 'no'):\\n try:\\n  import rope_patch\\n except ModuleNotFoundError as error:\\n"
    "  if error.name != 'rope_patch':\\n   raise\")\n"
)
START = f"{MARK}\nrope_patch.startup:start\n"
# The .start last, and taken away first: its presence alone keeps Python from the lines of the .pth.
FILES = {"rope_patch.pth": PTH, "rope_patch.start": START}
# What any release wrote, whatever its line was: the mark and a line; in the first releases' .pth, a line and the mark.
_COMPLETE = re.compile(rf"{MARK}\n[^\n]+\n|[^\n]+  {MARK}\n")
_BEGUN = re.compile(rf"{MARK}\n[^\n]*")  # by an install that was killed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def act(options: argparse.Namespace) -> Answer:
    """Write what is missing of the files, or older than this release.

    Refuses, with neither touched, where one is somebody else's.
    """
    files = places()
    before = {file: content(file) for file in files}
    missing = [file for file in files if before[file] != FILES[file.name]]
    try:
        for file in missing:
            file.write_text(FILES[file.name])
    except OSError as error:
        for changed in missing:  # as it was before, if that can be had
            with contextlib.suppress(OSError, Fault):
                _put_back(changed, before[changed])
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


def content(file: Path) -> str | None:
    """What is in the file that this verb wrote there, in whichever release, or began to write; None if none is there.

    Raises:
        Fault: something else is there.
    """
    if not os.path.lexists(file):
        return None
    try:
        text = file.read_text(errors="replace") if file.is_file() and not file.is_symlink() else None
    except OSError as error:
        raise Fault(f"cannot read {file}: {error.strerror}", 1) from error
    if text is None or not (_COMPLETE.fullmatch(text) or _BEGUN.fullmatch(text) or MARK.startswith(text)):
        raise Fault(f"{file} was not written by this rope-patch install, and is left as it is", 1)
    return text


def complete(file: Path) -> bool:
    """Whether the file is there and brings rope_patch in, as this release or an older one wrote it; raises likewise."""
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
