"""The parts of a report: other verbs, each in a process of its own, which may fail, hang or die."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from rope_patch.cli.answer import progress

COMMAND = (sys.executable, "-m", "rope_patch")
INTERRUPTED = "interrupted"


class Part(NamedTuple):
    """A verb that is run for the report."""

    verb: str
    arguments: tuple[str, ...]
    about: str  # what it does, and how long that takes
    limit: int  # seconds, after which it is ended


def run(part: Part, number: str) -> dict[str, Any]:
    """What came of it: its exit status and answer, or why there is none; and how long it took."""
    begin = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        process = subprocess.Popen(
            [*COMMAND, part.verb, *part.arguments, "--json"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=error, start_new_session=True,
        )  # fmt: skip
        try:
            ended = _waited(process, part, number)
        except KeyboardInterrupt:
            ended = INTERRUPTED
        finally:
            if process.poll() is None:  # its children too: it may have started some
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            progress("")
        texts = [_read(file) for file in (out, error)]
    seconds = round(time.monotonic() - begin, 1)
    answer = _object(texts[0])
    if ended or answer is None:
        return {"status": None, "seconds": seconds, "why": ended or _why(process.returncode, texts[1])}
    return {"status": process.returncode, "seconds": seconds, "answer": answer}


def _waited(process: "subprocess.Popen[bytes]", part: Part, number: str) -> str:
    """Wait for its end, and show that; returns why it has to be ended, if it has."""
    begin = time.monotonic()
    while (took := time.monotonic() - begin) < part.limit:
        progress(f"{number}: {part.verb} … {took:.0f} s, at most {part.limit}")
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        return ""
    return f"not done after {part.limit} seconds"


def _read(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that it printed; libraries of a device may print before it, and behind."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("{"):
            try:
                found, _ = json.JSONDecoder().raw_decode("\n".join(lines[number:]))
            except ValueError:
                continue
            return found if isinstance(found, dict) else None
    return None


def _why(status: int, said: str) -> str:
    """The error that the verb printed, else the last lines that it left."""
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            error = json.loads(line)["error"]
        except (ValueError, TypeError, KeyError):
            continue
        return str(error)
    return "; ".join([ended, *lines[-3:]])
