"""What is declared agrees with what is tested, and the documents with the tree."""

import re
import subprocess
import sys

import pytest

from rope_patch import __version__
from rope_patch.settings import VARIABLE, parse
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs tomli before Python 3.11")


def test_the_tested_floor_of_wrapt_is_the_declared_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (floor,) = (d.removeprefix("wrapt>=") for d in project["dependencies"])
    assert f"wrapt=={floor}" in (ROOT / "scripts" / "environments.sh").read_text()


def test_the_top_level_has_no_other_files_and_folders() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.stdout.splitlines()}
    expected = {
        "rope_patch",
        "tests",
        "scripts",
        "pyproject.toml",
        "README.md",
        "README.zh.md",
        "LICENSE",
        "CHANGELOG.md",
    }
    assert {name for name in top if not name.startswith(".")} == expected


def test_the_map_names_every_module_and_no_other() -> None:
    readme = (ROOT / "rope_patch" / "README.md").read_text()
    section = readme.split("## Map of the code")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `([\w/.]+)` \|", section, re.M))
    package = ROOT / "rope_patch"
    modules = {str(p.relative_to(package)) for p in package.rglob("*.py") if p.stat().st_size}
    assert named == modules


def test_the_readme_names_the_entry_point_and_every_value_of_the_variable() -> None:
    readme = (ROOT / "README.md").read_text()
    (plugin,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    assert f"VLLM_PLUGINS=ascend,{plugin}" in readme
    (complaint,) = parse({VARIABLE: "no value of it"}).complaints
    valid = complaint.partition("expected one of ")[2].partition(";")[0].split(", ")
    assert {"1", "0", "all", "force"} <= set(valid)
    table = readme.partition("\n## Variables\n")[2].partition(f"| `{VARIABLE}_")[0]
    assert [value for value in valid if f"`{value}`" not in table] == []


def test_no_file_of_the_package_is_longer_than_220_lines() -> None:
    long = {p.name: n for p in (ROOT / "rope_patch").rglob("*.py") if (n := len(p.read_text().splitlines())) > 220}
    assert not long


def test_the_documents_are_of_this_version_and_the_changelog_begins_with_it() -> None:
    for name in ("README.md", "README.zh.md"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"rope_patch (\d[\w.]*):", text)) == {__version__}
        assert f"**{__version__} " in text
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert re.fullmatch(rf"{re.escape(__version__)} \(20\d\d-\d\d-\d\d\)", sections[0])


def test_the_newest_section_of_the_changelog_tells_users_what_was_added_changed_and_fixed_and_how_to_upgrade() -> None:
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert re.findall(r"^### (.*)$", newest, re.M) == ["Added", "Changed", "Fixed"]
    assert newest.splitlines()[2].startswith("**Upgrading from ")
    assert [word for word in ("pytest", "test_", "tests/", ".venvs", "double") if word in newest] == []
