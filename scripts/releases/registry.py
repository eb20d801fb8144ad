"""Files of released packages, by pip's own means from the registry that it is set up for: nothing is built.

Runs in a Python that has pip (``.venvs/installers`` here) and prints JSON::

    python registry.py list PACKAGE...            {package: [version...]}, the oldest first
    python registry.py read PACKAGE VERSION DIR   writes the Python files that targets look at into DIR

``pip download`` would run a source distribution's build to learn its name. So pip's finder says where the archives are,
and its session fetches them: of a wheel, only the parts that are asked for; a source distribution as a whole.
"""

import io
import json
import re
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from pip._internal.commands import create_command
from pip._internal.network.lazy_wheel import LazyZipOverHTTP

# What the targets and the bases of their classes are in; the pins, and the name of the vLLM that a release is for; and
# for tests/host_cann/extension.py, the operators of an extension that a source distribution does not have built.
WANTED = re.compile(
    r"vllm/envs\.py|vllm/model_executor/custom_op\.py|vllm/model_executor/layers/rotary_embedding(\.py|/\w+\.py)"
    r"|vllm_ascend/ops/rotary_embedding\.py|vllm_ascend/ops/triton/(rope|linearnorm/split_qkv\w+)\.py|[^/]+\.dist-info/METADATA|PKG-INFO|Dockerfile"
    r"|csrc/torch_binding\.cpp"
)


def wanted(names: Iterable[str], top: int) -> dict[str, str]:
    """The files to read, each with its path below the archive's own folder."""
    below = {name: PurePosixPath(*PurePosixPath(name).parts[top:]).as_posix() for name in names}
    return {name: path for name, path in below.items() if WANTED.fullmatch(path)}


def read(candidate, session) -> dict[str, bytes]:
    url = candidate.link.url_without_fragment
    if candidate.link.is_wheel:
        with LazyZipOverHTTP(url, session) as lazy, ZipFile(lazy) as archive:
            return {path: archive.read(name) for name, path in wanted(archive.namelist(), 0).items()}
    answer = session.get(url, headers={"Accept-Encoding": "identity"})
    answer.raise_for_status()
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        found = wanted((member.name for member in archive if member.isfile()), 1)
        return {path: archive.extractfile(name).read() for name, path in found.items()}


def with_pip(work: Callable) -> None:
    """Run ``work`` with a function that gives all candidates of a package, and with pip's session."""
    command = create_command("download")
    options, _ = command.parse_args(["--pre", "--no-deps", "none"])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        work(lambda name: [c for c in finder.find_all_candidates(name) if not c.link.is_yanked], session)


def versions(names: list[str], candidates: Callable, session) -> None:
    found = {name: sorted({c.version for c in candidates(name)}) for name in names}
    sys.stdout.write(json.dumps({name: [str(version) for version in all_] for name, all_ in found.items()}) + "\n")


def write(name: str, version: str, folder: Path, candidates: Callable, session) -> None:
    found = [candidate for candidate in candidates(name) if str(candidate.version) == version]
    found.sort(key=lambda candidate: not candidate.link.is_wheel)
    if not found:
        sys.exit(f"the registry has no {name} {version}")
    for path, content in read(found[0], session).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "list":
        with_pip(lambda *pip: versions(arguments, *pip))
    else:
        with_pip(lambda *pip: write(arguments[0], arguments[1], Path(arguments[2]), *pip))
