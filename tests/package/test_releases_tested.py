"""Which releases are tested is written once: the scripts, the tests and the README's matrix read or match that list."""

import re
import subprocess

import pytest

from tests.ascend_stack.tested import NEWEST, ROLES, having
from tests.conftest import ROOT

KNOWN = {"newest", "classes", "engine", "images", "graphs", "ray", "post", "older"}


def matrix() -> dict[str, tuple[str, str, str]]:
    """CANN, Python and what ran, of each release in the README's table."""
    text = (ROOT / "README.md").read_text().partition("| vllm-ascend | its CANN |")[2].partition("\n\n")[0]
    found: dict[str, tuple[str, str, str]] = {}
    for line in text.splitlines()[2:]:
        names, canns, python, ran = (cell.strip() for cell in line.strip("|").split("|"))
        first = names.partition(" ")[0].rstrip(",")
        releases = [first, first + ".post1"] if "and .post1" in names else names.split(", ")
        for number, release in enumerate(releases):
            cann = canns.removesuffix(" or newer").split(", ")
            found[release] = (cann[min(number, len(cann) - 1)], python, ran)
    return found


def test_the_list_has_known_roles_and_each_release_is_used() -> None:
    assert set().union(*ROLES.values()) == KNOWN
    assert all(ROLES.values())
    assert len(having("newest")) == 1


@pytest.mark.parametrize("role", [*sorted(KNOWN), "all"])
def test_the_scripts_read_the_same_list(role: str) -> None:
    command = f"source scripts/environments.sh && releases {role}"
    said = subprocess.run(["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert tuple(said.split()) == (tuple(ROLES) if role == "all" else having(role))


@pytest.mark.parametrize("file", ["scripts/test.sh", "scripts/quickstart.sh", "tests/ascend_stack/engine.py"])
def test_no_script_names_a_release_itself(file: str) -> None:
    code = [line for line in (ROOT / file).read_text().splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in code if any(re.search(rf"\b{re.escape(release)}\b", line) for release in ROLES)] == []


def test_the_readmes_matrix_has_each_release_and_no_other() -> None:
    assert set(matrix()) == set(ROLES)


@pytest.mark.parametrize("release", ROLES)
def test_the_readmes_matrix_says_what_ran(release: str) -> None:
    _, _, ran = matrix()[release]
    roles = ROLES[release] | (ROLES[NEWEST] if release.startswith(f"{NEWEST}.post") else set())
    said = {"classes": "every rotary class", "engine": "engine", "graphs": "graphs", "images": "images"}
    assert {role for role, word in said.items() if word in ran} == roles & set(said)
    assert ("nothing is replaced" in ran) == ("older" in roles)
