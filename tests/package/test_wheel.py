"""The wheel: how it is built, what it holds, what it says of itself, and its installation."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from rope_patch.settings import parse
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs tomli before Python 3.11")

build = pytest.importorskip("build")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with pip, and exactly the oldest hatchling that pyproject.toml allows."""
    (required,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    folder = tmp_path_factory.mktemp("builds")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, required.replace(">=", "=="), "wrapt"], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def source(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    return Path(build.ProjectBuilder(ROOT, str(python)).build("sdist", tmp_path_factory.mktemp("source")))


@pytest.fixture(scope="module")
def wheel(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build.ProjectBuilder(ROOT, str(python)).build("wheel", tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    (name,) = (n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".dist-info/METADATA"))
    return Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    package = {str(p.relative_to(ROOT)) for p in (ROOT / "rope_patch").rglob("*") if p.suffix in (".py", ".typed")}
    assert {name for name in names if ".dist-info/" not in name} == package
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_wheel_that_is_built_again_is_the_same_byte_for_byte(
    python: Path, wheel: Path, source: Path, tmp_path: Path
) -> None:
    """From the source distribution, at another place and another time, by a user with another umask."""
    with tarfile.open(source) as packed:
        packed.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    for path in unpacked.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    again = build.ProjectBuilder(unpacked, str(python)).build("wheel", tmp_path / "again")
    assert Path(again).read_bytes() == wheel.read_bytes()


def test_wrapt_is_the_only_hard_dependency(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist") or []
    assert [entry for entry in required if "extra ==" not in entry] == ["wrapt>=1.16"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"


def test_the_metadata_names_the_contributors_and_no_person_or_address(metadata: Message) -> None:
    assert metadata["Author"] == "rope_patch contributors"
    assert [field for field in ("Author-email", "Maintainer-email", "Home-page") if metadata[field]] == []
    assert metadata["Keywords"]


def test_the_classifiers_name_every_python_that_the_metadata_allows_and_tests_reach(metadata: Message) -> None:
    environments = (ROOT / "scripts" / "environments.sh").read_text()
    ends = [int(re.search(rf"{name}_environment.*python 3\.(\d+)", environments)[1]) for name in ("floor", "newest")]  # type: ignore[index]
    prefix = "Programming Language :: Python :: 3."
    named = [int(c.removeprefix(prefix)) for c in metadata.get_all("Classifier") or [] if c.startswith(prefix)]
    assert named == list(range(ends[0], ends[1] + 1))
    assert metadata["Requires-Python"] == f">=3.{ends[0]}"


def test_on_a_package_index_every_link_is_absolute_and_no_picture_is_broken(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert text.startswith("# rope_patch")
    assert [target for target in re.findall(r"\]\(([^)]*)\)", text) if not target.startswith("https://")] == []
    assert "![" not in text
    assert "<img" not in text


def test_what_it_names_on_an_index_instead_of_a_link_is_in_the_source_distribution(
    metadata: Message, source: Path
) -> None:
    readme = (ROOT / "README.md").read_text()
    paths = [path.partition("#")[0] for path in re.findall(r"\]\(([^)]*)\)", readme) if not path.startswith("http")]
    with tarfile.open(source) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    text = str(metadata.get_payload())
    named = {path for path in paths if f"`{path}`" in text}
    assert named - {""}
    assert [
        path for path in named - {""} if not any(name == path or name.startswith(f"{path}/") for name in held)
    ] == []


def test_installed_by_the_dockerfile_it_works_and_uninstalls_without_residue(
    wheel: Path, python: Path, tmp_path: Path
) -> None:
    before = files(python)
    environment = replayed(ROOT / "scripts" / "deploy" / "Dockerfile", wheel.parent, tmp_path / "image", python.parent)
    said = subprocess.run(["rope-patch", "--version"], check=True, capture_output=True, text=True, env=environment)
    assert said.stdout.split()[-1] in wheel.name
    assert parse(environment).complaints == ()
    assert [path for path in (tmp_path / "image").rglob("*") if path.is_file()] == []
    for verb, left in (("install", {"rope_patch.pth"}), ("uninstall", set())):
        subprocess.run([python.with_name("rope-patch"), verb], check=True, stdout=subprocess.DEVNULL)
        assert {p.name for p in files(python) if p.name.startswith("rope_patch.")} == left
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "rope-patch"], check=True)
    assert files(python) == before


def replayed(dockerfile: Path, context: Path, image: Path, binaries: Path) -> dict[str, str]:
    """Execute a Dockerfile's steps with ``binaries`` first on PATH; /tmp/ is in ``image``. Returns the environment."""
    environment = dict(os.environ) | {"PATH": f"{binaries}:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for line in dockerfile.read_text().splitlines():
        step, _, rest = line.replace("/tmp/", f"{image}/tmp/").partition(" ")
        if step == "COPY":
            pattern, folder = rest.split()
            Path(folder).mkdir(parents=True)
            for path in context.glob(pattern):
                shutil.copy(path, folder)
        elif step == "RUN":
            subprocess.run(["sh", "-ec", rest], check=True, env=environment, stdout=subprocess.DEVNULL)
        elif step == "ENV":
            environment.update([rest.split("=", 1)])
        else:
            assert step in ("#", "ARG", "FROM"), f"this test cannot execute {line}"
    return environment


def files(python: Path) -> list[Path]:
    """All files of its environment."""
    return sorted(p for p in python.parents[1].rglob("*") if "__pycache__" not in p.parts)
