"""A report as rows of the README's table: microseconds on its device, ours first, and what is wrong.

They are labelled *measured* where the driver has a file for the device; a stand-in has none, and its times say nothing.
"""

import json
from typing import Any

from rope_patch.cli import report_page
from rope_patch.cli.answer import CannotAnswer, printable, short

LARGEST = 2**24  # bytes of a report that is read
Data = dict[str, Any]


def loaded(place: str) -> Data:
    """The report in that file.

    Raises:
        CannotAnswer: it cannot be read, or is none.
    """
    try:
        with open(place, "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise CannotAnswer(f"{short(place)} is larger than {LARGEST} bytes, expected a report")
        data = json.loads(content)
        table_of(data)
    except OSError as error:
        raise CannotAnswer(f"{short(place)} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CannotAnswer(f"{short(place)} is no report: {type(error).__name__}: {short(error)}") from error
    return dict(data)


def table_of(data: Data) -> str:
    """As Markdown, with a sentence that says where it is from.

    Raises:
        CannotAnswer: nothing was timed in it.
    """
    answer = data["parts"]["bench"].get("answer")
    if answer is None:
        raise CannotAnswer(f"nothing was timed in that report: {data['parts']['bench']['why']}")
    chip, machine = report_page.chip(data) or "?", data["machine"]
    label = "*measured*" if machine["device_files"] else "*executed* without a device, so no figure of one"
    tokens = sorted({one["tokens"] for one in answer["results"]})
    counts = [f"{count:,} token{'s' * (count > 1)}" for count in tokens]
    columns = [f"{chip}, {label}, {counts[0]}", *(f"{chip}, {count}" for count in counts[1:])]
    lines = [_from(data, chip, answer["dtype"]), ""]
    lines += [_row(["query/kv heads, rotary dim", *columns]), _row(["---"] * (len(tokens) + 1))]
    by_shape: dict[str, dict[int, Data]] = {}
    for one in answer["results"]:
        by_shape.setdefault(_name(one["shape"]), {})[one["tokens"]] = one
    lines += [_row([name, *(_cell(rows.get(count)) for count in tokens)]) for name, rows in by_shape.items()]
    return "\n".join(lines)


def _from(data: Data, chip: str, dtype: str) -> str:
    machine = data["machine"]
    stack = [f"{name} {version}" for name, version in machine["versions"].items() if version]
    stack += [f"{name} {machine[key]}" for name, key in (("CANN", "cann"), ("driver", "driver")) if machine[key]]
    return (
        f"Microseconds on {chip}, {dtype}, median ± distance between quartiles; each cell has ours first, then what "
        f"serves natively. {', '.join(stack)}; {data['written']}."
    )


def _name(shape: Data) -> str:
    rotary = f"{shape['rotary_dim']}" + (
        f" of {shape['head_size']}" if shape["rotary_dim"] < shape["head_size"] else ""
    )
    style = "" if shape["is_neox_style"] else ", GPT-J"
    return f"{shape['name']} ({shape['num_heads']}/{shape['num_kv_heads']} heads, {rotary}{style})"


def _cell(one: Data | None) -> str:
    if one is None:
        return "-"
    ours = "FAULT" if one["fault"] else _time(one["patched"])
    wrong = " (wrong)" if any(str(remark).startswith("native differs") for remark in one["remarks"]) else ""
    return f"{ours}, {_time(one['native'])}{wrong}"


def _time(times: Data | None) -> str:
    """Of the device, where it was timed by itself; else with the host's in it, which the star says."""
    if times is None:
        return "-"
    time = times["device"] or times["host"]
    star = "" if times["device"] and times["device_by"] == "graph replay" else "*"
    return f"{time['median_us']:.1f}{star} ± {time['spread_us']:.1f}"


def _row(cells: list[str]) -> str:
    """What others wrote into a report stays in its cell."""
    return f"| {' | '.join(printable(str(cell)).replace('|', '/') for cell in cells)} |"
