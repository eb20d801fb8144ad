"""Python in a fork of a process that has imported what vLLM imports: a second of processor time instead of ten.

    forks = Forks("torch", "transformers", **variables)
    done = forks.run(code, variables, folder)  # as subprocess.run([sys.executable, "-c", code], ...)

vLLM and rope_patch themselves are not imported before the fork: each run imports them in its own order and under its
own variables. ``variables`` of ``Forks`` are those that the imports before the fork see. Run as a program, this is the
process that is forked.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType

# Of what vLLM 0.11 to 0.32 imports, what takes longest; a version that has no such module does without.
OF_VLLM = (
    "torch",
    "torch._inductor.compile_fx",
    "torch._inductor.lowering",
    "transformers",
    "transformers.modeling_gguf_pytorch_utils",
    "transformers.models.auto.image_processing_auto",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "openai.types.responses",
    "fastapi",
    "aiohttp",
    "requests",
)


class Forks:
    """The process that is forked, started when the first is asked for."""

    def __init__(self, *modules: str, **variables: str) -> None:
        self.modules, self.variables = modules, variables
        self.process: subprocess.Popen[str] | None = None

    def run(self, code: str, variables: dict[str, str], folder: Path | str) -> subprocess.CompletedProcess[str]:
        """Run ``code`` with exactly these environment variables in that folder; output and error are in ``stdout``."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.forks", *self.modules], cwd=Path(__file__).parents[1],
                env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        with tempfile.NamedTemporaryFile("r", errors="replace") as said:
            self.process.stdin.write(json.dumps([code, variables, str(folder), said.name]) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, "the process that is forked has ended"
            return subprocess.CompletedProcess(code, int(answer), said.read())

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()  # without input it ends


def child(code: str, variables: dict[str, str], folder: str, out: str) -> int:
    """In the fork: become what ``python -c code`` would be; the exit status."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with open(out, "w") as file, open(os.devnull) as nothing:
        for stream, number in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(stream.fileno(), number)
    sys.path[:] = ["", *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)), *sys.path[1:]]
    sys.argv = ["-c"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(modules: list[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    answers = os.fdopen(os.dup(1), "w")  # whatever an import prints is no answer
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            answers.close()
            status = child(*json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
