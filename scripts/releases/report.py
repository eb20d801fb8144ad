"""The kept answers, what differs from them, and the table of them in the targets' README."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from scripts.releases.verdicts import APPLIED, Answer
from tests.ascend_stack.tested import ROLES

RESULTS = Path(__file__).with_name("results.json")
FIRST = "0.11.0rc1"  # with which that table begins
HEAD = ("| vllm-ascend | targets that apply, read in its source | executed |", "|---|---|---|")
Answers = dict[str, dict[str, Answer]]  # by package and version, the oldest first


def kept() -> Answers:
    answers: Answers = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"vllm-ascend": {}, "vllm": {}}
    return answers


def keep(answers: Answers) -> None:
    RESULTS.write_text(json.dumps(answers, indent=1) + "\n")


def line(package: str, version: str, answer: Answer) -> str:
    beside = f" with vLLM {answer['vllm']}" if answer["vllm"] else ""
    said = "; ".join(f"{name} {state}" for name, state in answer["targets"].items())
    return f"{package} {version}{beside}: {said}"


def differences(before: Answers, now: Answers) -> list[str]:
    """What is new, and what is answered in another way: one line for each release or target."""
    said = []
    for package, versions in now.items():
        for version, answer in versions.items():
            old = before.get(package, {}).get(version)
            if old is None:
                said.append(f"new: {line(package, version, answer)}")
                continue
            for name in answer["targets"] | old["targets"]:
                was, is_ = old["targets"].get(name, "no target"), answer["targets"].get(name, "no target")
                if was != is_:
                    said.append(f"changed: {package} {version}: {name} was {was}, is {is_}")
            if (old["vllm"], old["pins"]) != (answer["vllm"], answer["pins"]):
                said.append(f"changed: {package} {version}: {old} is {answer}")
    return said


def since_the_first(answers: Answers) -> Iterator[tuple[str, Answer]]:
    """Releases of vllm-ascend from ``FIRST`` on."""
    return itertools.dropwhile(lambda item: item[0] != FIRST, answers["vllm-ascend"].items())


def _applied(item: tuple[str, Answer]) -> list[str]:
    return [f"`{name}`" for name, state in item[1]["targets"].items() if state == APPLIED]


def table(answers: Answers) -> Iterator[str]:
    """That table: releases of vllm-ascend in which the same targets apply, one line for each run of them; and which
    of them the test command executes."""
    yield from HEAD
    for applied, group in itertools.groupby(since_the_first(answers), _applied):
        versions = [version for version, _ in group]
        span = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
        tried = [version for version in versions if version in ROLES]
        yield f"| {span} | {', '.join(applied)} | {', '.join(tried) or 'none'} |"
