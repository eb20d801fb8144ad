"""What the compilers answered, as tables and as a file."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.census.asking import Answer
from scripts.census.kernels import Case

Answers = dict[str, Answer]  # by whom: "1.2.0", or "1.2.0 950" where chips were answered differently


def table(answered: dict[Case, Answers]) -> str:
    """A row for each compiler, style and type: how many kernels, and what became of them."""
    rows: dict[tuple[str, str, str], Counter[str]] = {}
    seen = set()
    for case, answers in answered.items():
        for who, answer in answers.items():
            if (case.kernel, case.style, who) not in seen:  # models share kernels
                seen.add((case.kernel, case.style, who))
                count(rows.setdefault((who, case.style, case.dtype), Counter()), answer)
    head = ("compiler", "style", "dtype", "kernels", "taken", "with a note", "overflow", "error", "most KiB", "of KiB")
    names = sorted(rows, key=lambda row: (row[0], row[1] != "NeoX", row[2]))
    lines = [head, ["---"] * len(head), *((*row, *cells(rows[row])) for row in names)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count(row: Counter[str], answer: Answer) -> None:
    row["kernels"] += 1
    row["taken"] += answer.error is None
    row["with a note"] += answer.error is None and not answer.clean
    row["overflow"] += answer.required_bits is not None
    row["error"] += answer.error is not None and answer.required_bits is None
    row["bytes"] = max(row["bytes"], answer.ub_bytes or 0)
    row["of"] = max(row["of"], answer.ub_available or 0)


def cells(row: Counter[str]) -> list[str]:
    counts = [str(row[name]) for name in ("kernels", "taken", "with a note", "overflow", "error")]
    return [*counts, f"{row['bytes'] / 1024:.1f}", f"{row['of'] / 1024:g}"]


def record(case: Case, answers: Answers, others: dict[Answer, str]) -> dict[str, Any]:
    """One kernel. An answer is a number, the bytes used by a kernel taken without a note, or a name in ``others``."""
    named = {
        who: answer.ub_bytes if answer.clean else others.setdefault(answer, f"#{len(others)}")
        for who, answer in answers.items()
    }
    values = dict(case.kernel.values)
    return {
        "model": case.model,
        "style": case.style,
        "dtype": case.dtype,
        "output": "fresh" if case.fresh else "in place",
        "key": case.key,
        "step": case.step,
        "tile": [values.get("BLOCK_T", 1), *(values.get(f"BLOCK_{x}", values[f"{x}_HEADS"]) for x in "QK")],
        "predicted": case.predicted,
        "answers": named,
    }


def write(path: Path, facts: dict[str, Any], answered: dict[Case, Answers]) -> None:
    """A line for each kernel, so that two runs can be compared."""
    others: dict[Answer, str] = {}
    records = [record(case, answers, others) for case, answers in answered.items()]
    told = {name: {key: value for key, value in answer._asdict().items() if value} for answer, name in others.items()}
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    others_lines = lines(f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in told.items())
    parts += [f'"others": {{\n{others_lines}\n}}', f'"kernels": [\n{lines(map(json.dumps, records))}\n]']
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def lines(entries: Iterable[str]) -> str:
    return ",\n".join(entries)
