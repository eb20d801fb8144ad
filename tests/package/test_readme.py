"""The README is short, its links and commands exist, and each WARNING that can be logged is in its table."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rope_patch import cli
from rope_patch.settings import NAMES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", ".github/**/*.md", "rope_patch/**/*.md", "scripts/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

# What can be logged as a WARNING: the function and its words; and the part of them that the README's table has.
WARNINGS = {
    ("_log", "rope_patch: %s"): ("not active: ", "is not valid, expected one of"),
    ("take_back", "rope_patch: … …"): ("half taken back, call disable() again to finish",),
    ("_decide", "rope_patch: … …; vLLM serves natively"): ("failed: …; vLLM serves natively",),
    ("_replace", "rope_patch: … …; vLLM serves natively"): ("failed: …; vLLM serves natively",),
    ("_make_variables_known", "rope_patch: … stays unknown to vLLM: …: …"): ("stays unknown to vLLM",),
    ("look", "rope_patch: …"): ("other users can write to", "ranks disagree"),
    ("look", "rope_patch: no report in …: …: …"): ("no report in",),
    ("after_the_start", "…: …: … (traceback at level DEBUG)"): ("failed after the kernel was started",),
    ("_start", "rope_patch: a call goes to the original: … (traceback at level DEBUG)"): (
        "a call goes to the original",
    ),
    ("serve", "rope_patch: a call goes to the original: … (traceback at level DEBUG)"): (
        "a call goes to the original",
    ),
    ("trusted", "rope_patch: …: …, and will be tried again: …"): ("was not possible, and will be tried again",),
    ("launcher_failed", "…: …"): ("own launcher failed, and Triton starts it from now on",),
    ("_remember", "rope_patch: native … for …: …"): ("native rotary embedding for",),
    ("_examine", "rope_patch: smaller tiles are used, since …; please report it"): ("smaller tiles are used, since",),
}


def section(heading: str, text: str = README) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def logged() -> Iterator[tuple[str, str]]:
    """Each call of the package that logs a WARNING."""
    for path in (ROOT / "rope_patch").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name == "warn_once":
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and _name(node.func) in ("warn_once", "warning"):
                    yield function.name, _words(node.args[0])


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _words(message: ast.expr) -> str:
    pieces = message.values if isinstance(message, ast.JoinedStr) else [message]
    return "".join(str(piece.value) if isinstance(piece, ast.Constant) else "…" for piece in pieces)


def test_it_is_short_and_the_switch_is_on_its_first_screen() -> None:
    lines = README.splitlines()
    assert len(lines) <= 160
    assert lines.index("VLLM_ASCEND_TRITON_ROPE=0 vllm serve MODEL") <= 30


def test_every_warning_that_can_be_logged_is_known_here() -> None:
    found = set(logged())
    assert len(found) > 10
    assert [one for one in found if not any(_is(one, known) for known in WARNINGS)] == []


def _is(one: tuple[str, str], known: tuple[str, str]) -> bool:
    """``…`` stands for any words."""
    return one[0] == known[0] and re.fullmatch(re.escape(known[1]).replace("…", ".*"), one[1]) is not None


@pytest.mark.parametrize("words", sorted({words for parts in WARNINGS.values() for words in parts}))
def test_every_warning_is_in_the_table_of_symptoms(words: str) -> None:
    rows = [row for row in section("When something looks wrong").splitlines() if row.startswith("|")]
    assert any(f"{words.strip()}" in row.split("|")[1] for row in rows), words


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_every_link_leads_to_a_file_and_a_heading_that_there_are(path: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`]*`", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]*)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_every_command_and_variable_that_is_named_exists(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # it names what is gone, too
    text = path.read_text()
    verbs = set(re.findall(r"(?:^|`|-- |/)rope-patch ([a-z]+)", text, re.M))
    assert verbs - {*cli.VERBS, "report"} == set()
    named = {name.rstrip("_") for name in re.findall(r"VLLM_ASCEND_TRITON_ROPE[A-Z_]*", text)}
    assert named - {*NAMES, "VLLM_ASCEND_TRITON_ROPE_NATIVE"} == set()
    for module in re.findall(r"python3? -m ((?:scripts|tests)[\w.]*)", text):
        there = ROOT.joinpath(*module.split("."))
        assert there.is_dir() or there.with_suffix(".py").is_file(), module
    for script in re.findall(r"\bscripts/[\w/]+\.(?:sh|py)\b", text):
        assert (ROOT / script).is_file(), script
