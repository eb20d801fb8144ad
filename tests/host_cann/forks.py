"""Python in a fork of a process that has imported what takes long: two seconds of processor time instead of twelve.

    forks = Forks(OF_VLLM, variables)
    done = forks.run(code, variables, folder)  # as subprocess.run([sys.executable, "-c", code], ...)

What runs before the forks imports neither vLLM nor rope_patch: each fork imports them in its own order and under
its own variables. Run as a program, this is the process that is forked.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def bring(*modules: str) -> None:
    """Import those that there are."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


# Of what vLLM 0.11 to 0.32 imports, what takes longest.
OF_VLLM = """
from tests.host_cann import forks
forks.bring("torch", "torch._inductor.compile_fx", "torch._inductor.lowering", "transformers",
    "transformers.modeling_gguf_pytorch_utils", "transformers.models.auto.image_processing_auto",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "openai.types.responses", "fastapi", "aiohttp", "requests")
"""


class Forks:
    """The process that is forked, started when the first fork is asked for; ``before`` is what it runs first."""

    def __init__(self, before: str, variables: Mapping[str, str]) -> None:
        self.before, self.variables = before, variables
        self.process: subprocess.Popen[str] | None = None

    def run(self, code: str, variables: Mapping[str, str], folder: Path | str) -> subprocess.CompletedProcess[str]:
        """Run ``code`` with exactly these environment variables in that folder."""
        if self.process is None:
            command = [sys.executable, "-m", "tests.host_cann.forks", self.before]
            pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
            # A session of its own, so that all forks can be ended together.
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                command, cwd=ROOT, env=dict(self.variables), text=True, start_new_session=True, **pipes
            )
        assert self.process.stdin
        assert self.process.stdout
        with tempfile.TemporaryDirectory() as said:
            out, error = Path(said) / "out", Path(said) / "error"
            self.process.stdin.write(json.dumps([code, dict(variables), str(folder), str(out), str(error)]) + "\n")
            self.process.stdin.flush()
            try:
                answer = self.process.stdout.readline()
            except BaseException:  # a test's timeout, or an interrupt: its answer must not be taken for the next one's
                self.kill()
                raise
            assert answer, "the process that is forked has ended"
            texts = [path.read_text(errors="replace") for path in (out, error)]
        return subprocess.CompletedProcess(code, int(answer), *texts)

    def close(self) -> None:
        if self.process is not None:
            try:
                self.process.communicate(timeout=60)  # without input it ends
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the process and its forks; the next ``run`` starts another."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def become(variables: dict[str, str], folder: str, *files: str) -> None:
    """In a fork: be in the state in which ``python -c`` begins."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for number, path in enumerate((os.devnull, *files)):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.path[:] = ["", *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)), *sys.path[1:]]
    sys.argv = ["-c"]
    sys.modules["__main__"] = ModuleType("__main__")


def main(before: str) -> None:
    exec(before, {})
    answers = os.fdopen(os.dup(1), "w")  # whatever ``before`` prints is no answer
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            answers.close()
            code, *start = json.loads(line)
            become(*start)
            exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
            sys.exit()  # the interpreter ends as any other
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
