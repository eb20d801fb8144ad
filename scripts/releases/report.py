"""The kept answers, what differs from them, and the README's table of them."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from scripts.releases.verdicts import APPLIED, Answer

RESULTS = Path(__file__).with_name("results.json")
HEAD = ("| vllm-ascend | replaced | native, and why |", "|---|---|---|")
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


def _alike(item: tuple[str, Answer]) -> tuple[tuple[str, str], ...]:
    return tuple(item[1]["targets"].items())


def table(answers: Answers) -> Iterator[str]:
    """The README's: releases of vllm-ascend with the same answers, one line for each run of them."""
    yield from HEAD
    for states, group in itertools.groupby(answers["vllm-ascend"].items(), _alike):
        versions = [version for version, _ in group]
        span = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
        applied = [f"`{name}`" for name, state in states if state == APPLIED]
        reasons: dict[str, list[str]] = {}
        for name, state in states:
            if state != APPLIED:
                reasons.setdefault(state.removeprefix("native: "), []).append(f"`{name}`")
        native = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
        yield f"| {span} | {', '.join(applied) or 'nothing'} | {'; '.join(native) or 'none'} |"
