"""README.zh.md is in step with README.md: headings, commands, tables, lists, links, code and numbers of each line."""

import re
from collections.abc import Callable

import pytest

from tests.conftest import ROOT

ENGLISH, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
Lines = list[str]


def blocks(text: str) -> Lines:
    return re.findall(r"^```.*?^```$", text, re.M | re.S)


def prose(text: str) -> Lines:
    """Paragraphs, headings, rows and list items, one a line; blocks of code left out."""
    return [line for line in re.sub(r"^```.*?^```$", "```", text, flags=re.M | re.S).splitlines() if line]


def kind(line: str) -> str:
    """Of a line: a heading of some level, a row of so many cells, a list item, or else."""
    if line.startswith("|"):
        return f"row of {len(line.strip('|').split('|'))}"
    return (re.match(r"#+ |- |\d\. |> |!\[|```", line) or [""])[0]


def code(line: str) -> Lines:
    return sorted(re.findall(r"`([^`]+)`", line))


def targets(line: str) -> Lines:
    found = re.findall(r"\]\(([^)]+)\)", line)
    return sorted("#" if target.startswith("#") else target.replace(".zh.", ".") for target in found)


def numbers(line: str) -> Lines:
    """Releases, times and counts, which are the same in every language."""
    return sorted(re.findall(r"\d+\.\d[\w.]*\w|\d{3,}", re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)))


PAIRS = list(zip(prose(ENGLISH), prose(CHINESE), strict=False))


def test_both_have_the_same_lines_in_the_same_order() -> None:
    assert [kind(line) for line in prose(CHINESE)] == [kind(line) for line in prose(ENGLISH)]


def test_both_have_the_same_commands_and_examples() -> None:
    assert blocks(CHINESE) == blocks(ENGLISH)


@pytest.mark.parametrize("what", [code, numbers], ids=lambda what: what.__name__)
def test_each_line_has_the_same(what: Callable[[str], Lines]) -> None:
    for english, chinese in PAIRS:
        assert what(chinese) == what(english), f"{english}\n{chinese}"


def test_each_line_leads_to_the_same_files() -> None:
    for english, chinese in PAIRS[2:]:  # after the line that links the other language
        assert targets(chinese) == targets(english), chinese


def test_each_is_linked_from_the_top_of_the_other() -> None:
    assert prose(ENGLISH)[1] == "English | [中文](README.zh.md)"
    assert prose(CHINESE)[1] == "[English](README.md) | 中文"


def test_the_terms_are_those_of_vllm_ascends_own_chinese_documents() -> None:
    for term in (
        "昇腾",
        "旋转位置编码",
        "算子",
        "内核",
        "图模式",
        "工作进程",
        "精度校验",
        "基准测试",
        "环境变量",
        "睡眠模式",
        "回退",
        "模型估算",
    ):
        assert term in CHINESE, term
