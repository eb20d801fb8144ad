"""``.github``: a workflow runs the fast tests, templates ask for what a report needs, recipes name what exists."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

GITHUB = ROOT / ".github"
RECIPES = (
    "A new release of vllm-ascend",
    "A new class of vLLM",
    "A new model in the engine's tests",
    "The first run on a real NPU",
    "Making a release",
)


def test_the_workflow_runs_the_readmes_command_for_fast_tests() -> None:
    yaml = pytest.importorskip("yaml")
    (job,) = yaml.safe_load((GITHUB / "workflows" / "fast.yml").read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["scripts/test.sh fast"]
    assert "scripts/test.sh fast" in (GITHUB / "CONTRIBUTING.md").read_text()


def test_the_workflow_has_the_oldest_and_the_newest_python_that_are_tested() -> None:
    environments = (ROOT / "scripts" / "environments.sh").read_text()
    tested = set(re.findall(r'_environment\(\) \{.*python (3\.\d+)\)"', environments))
    assert len(tested) == 2
    assert tested <= set(re.findall(r"^ +(3\.\d+)$", (GITHUB / "workflows" / "fast.yml").read_text(), re.M))


def test_nothing_there_works_on_one_host_only() -> None:
    text = "\n".join(path.read_text() for path in GITHUB.rglob("*") if path.is_file())
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert hosts <= {"download.pytorch.org"}
    assert [word for word in ("self-hosted", "secrets.", "github.com/", "localhost") if word in text] == []


@pytest.mark.parametrize("asked", ["rope-patch doctor --json", "rope-patch verify MODEL", "rope-patch report MODEL"])
def test_the_template_of_an_issue_asks_for_it(asked: str) -> None:
    assert asked in (GITHUB / "ISSUE_TEMPLATE" / "bug.md").read_text()


def test_every_recipe_is_there_and_short() -> None:
    text = (GITHUB / "CONTRIBUTING.md").read_text()
    for recipe in RECIPES:
        lines = text.partition(f"\n## {recipe}\n")[2].partition("\n## ")[0].strip().splitlines()
        assert 3 <= len(lines) <= 10, recipe


def test_files_that_recipes_name_exist() -> None:
    text = (GITHUB / "CONTRIBUTING.md").read_text()
    paths = {word for word in re.findall(r"`([\w/.]+)`", text) if "/" in word and not word.startswith(".venvs")}
    assert len(paths) > 8
    assert [path for path in paths if not Path(ROOT, path.removeprefix("../")).exists()] == []
