"""Time vLLM's own rotary embedding against the kernel on this device, for a model's shapes or for a built-in list.

MODEL is a Hugging Face model folder or a config.json; only JSON is read, and vLLM's own model code says how the model
rotates. "native" is vLLM's module with rope_patch disabled, "patched" the same module with the kernel. Where the
setting leaves a shape native, "patched" calls the kernel directly: that helps to decide on VLLM_ASCEND_TRITON_ROPE=all.
Both are compared with float64 first. Exit status 0: measured; 1: the kernel is wrong or could not be run; 2: it could
not be found out.
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rope_patch.cli import model, verify
from rope_patch.cli.answer import Answer, CannotAnswer, printable, progress, short, table, unexpected

if TYPE_CHECKING:
    from rope_patch.cli.measurement import Row, Times

TOKENS = (1, 32, 64, 512, 8192)  # as in decode steps of 1, 32 and 64 sequences, and in prefills
TOKENS_INTERPRETED = (1, 2)
MOST_TOKENS = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder or a config.json")
    parser.add_argument(
        "--tensor-parallel-size", "-tp", type=int, default=1, metavar="N", help="ranks to divide heads by"
    )
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="bfloat16")
    parser.add_argument(
        "--tokens",
        type=_tokens,
        metavar="N,N...",
        help=f"numbers of tokens to call with; default: {','.join(map(str, TOKENS))}, on a CPU 1,2",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw time against tokens, a panel for each shape")


def _tokens(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and len(word) < 8 and 0 < int(word) <= MOST_TOKENS for word in words):
        raise argparse.ArgumentTypeError(f"{short(text)} is not a list of numbers from 1 to {MOST_TOKENS}, as 1,512 is")
    return tuple(sorted({int(word) for word in words}))


def act(options: argparse.Namespace) -> Answer:
    """Measure every shape, with progress on standard error."""
    if options.plot is not None:
        _check_plot(options.plot)
    found = model.selected(options.model, options.tensor_parallel_size)
    device = verify.choose_device()
    from rope_patch.cli.worker import Worker

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    rows: list[Row] = []
    tokens = options.tokens or (TOKENS_INTERPRETED if device.type == "cpu" else TOKENS)
    with contextlib.redirect_stdout(sys.stderr):  # vLLM and its plugins print there
        worker = Worker(device)
        from rope_patch.cli import measurement

        for number, rope in enumerate(found.ropes):
            progress(f"{number} of {len(found.ropes)}: {printable(rope.name)} … ")
            rows += measurement.measure(rope, tokens, options.dtype, worker)
        progress("")
    if all(row.native is None for row in rows):
        raise CannotAnswer(f"native cannot be run here: {'; '.join(rows[0].remarks)}")
    if options.plot:
        from rope_patch.cli.picture import draw

        draw(rows, f"{verify.described(device)}, {options.dtype}", options.plot)
    ok = not any(row.fault for row in rows)
    data = {
        "device": verify.described(device),
        "dtype": options.dtype,
        "ok": ok,
        "way": found.way,
        "notes": found.notes,
    }
    data["results"] = [_data(row) for row in rows]
    verdict = _verdict(rows, verify.described(device), options.dtype)
    return Answer(ok, data, "\n".join([f"From {found.way}.", *found.notes, "", _text(rows), "", verdict]))


def _check_plot(place: str) -> None:
    """Check that the picture can be written, before minutes of measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotAnswer("--plot needs matplotlib: pip install 'rope-patch[plot]'")
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if Path(place).suffix.removeprefix(".").lower() not in kinds:
        raise unexpected("--plot", place, f"a file whose name ends in one of {', '.join(sorted(kinds))}")
    folder = os.path.dirname(os.path.abspath(place))
    if not os.path.isdir(folder):
        raise CannotAnswer(f"there is no folder for {short(place)}")
    if os.path.isdir(place) or not os.access(place if os.path.exists(place) else folder, os.W_OK):
        raise unexpected("--plot", place, "a file that can be written")


def _data(row: "Row") -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return {name: plain(inner) for name, inner in value._asdict().items()}
        return value

    fields = {**plain(row), "rope": row.rope.as_data()}
    ratios = {"ratio_host": _ratio(row, "host"), "ratio_device": _ratio(row, "device")}
    return {"shape": fields.pop("rope"), **fields, **ratios}


def _ratio(row: "Row", what: str) -> float | None:
    """Native time / patched time: above 1 the kernel is faster. None if they were not measured in the same way."""
    native, patched = (getattr(times, what) if times else None for times in (row.native, row.patched))
    if what == "device" and row.native and row.patched and row.native.device_by != row.patched.device_by:
        return None
    return native.median_us / patched.median_us if native and patched and patched.median_us > 0 else None


def _text(rows: "list[Row]") -> str:
    notes: list[str] = []  # each is printed once, below the table
    cells = []
    for row in rows:
        rope = row.rope
        heads = f"{rope.num_heads}/{rope.num_kv_heads}, {rope.head_size}, {rope.rotary_dim}"
        heads += f", {rope.sections}" if rope.sections else ""
        device = [] if all(row.device_by is None for row in _times(rows)) else _cells(row, "device")
        said = [note for note in (row.reason, *row.remarks, row.fault) if note]
        notes += [note for note in dict.fromkeys(said) if note not in notes]
        marks = "".join(f" [{notes.index(note) + 1}]" for note in dict.fromkeys(said))
        serves = f"{'FAULT, ' if row.fault else ''}{row.serves if row.serves == 'kernel' else row.natively}{marks}"
        cells.append((rope.name, heads, row.tokens, *device, *_cells(row, "host"), serves))
    timed = ("device: native", "patched", "ratio") if len(cells[0]) > 7 else ()
    header = (
        "shape",
        "heads, size, rotary",
        "tokens",
        *timed,
        "host: native",
        "patched",
        "ratio",
        "setting serves",
    )
    return "\n".join([table(header, cells), *(f"[{n}] {note}" for n, note in enumerate(notes, 1))])


def _times(rows: "list[Row]") -> "list[Times]":
    return [times for row in rows for times in (row.native, row.patched) if times]


def _cells(row: "Row", what: str) -> list[str]:
    """Native and patched time in microseconds, each with its spread, and their ratio."""
    cells = []
    for times in (row.native, row.patched):
        time = getattr(times, what) if times else None
        star = "*" if times and what == "device" and times.device_by == _with_host() else ""
        cells.append(f"{_short(time.median_us)}{star} ±{_short(time.spread_us)}" if time else "-")
    ratio = _ratio(row, what)
    return [*cells, "-" if ratio is None else f"{ratio:.2f}"]


def _with_host() -> str:
    from rope_patch.cli import timing

    return timing.WITH_HOST


def _short(us: float) -> str:
    return f"{us:.0f}" if us >= 100 else f"{us:.1f}" if us >= 10 else f"{us:.2f}"


def _verdict(rows: "list[Row]", device: str, dtype: str) -> str:
    from rope_patch import settings
    from rope_patch.patching.targets import ascend_mrope, ascend_rotary_class

    lines = [
        f"{device}, {dtype}: microseconds a call, median ± spread between quartiles; ratio: native / patched, above 1 "
        "the kernel is faster."
    ]
    if any(times.device_by == _with_host() for times in _times(rows)):
        lines.append(
            "* cannot be captured in a graph: plain calls, host time included. No ratio if only one of the two has a *."
        )
    if any(row.serves == "native" and row.patched for row in rows):
        lines.append("Where native serves, patched is the kernel called directly, without vLLM's module around it.")
    interpreted = all(times.device_by is None for times in _times(rows))
    if interpreted:
        lines.append("TRITON'S INTERPRETER ran the kernel: these times say nothing of a device.")
    else:
        lines += [f"By {what} time {_faster(rows, what)}." for what in ("device", "host")]
    left_to_vendor = (ascend_rotary_class.LEFT_TO_VENDOR, ascend_mrope.LEFT_TO_VENDOR)
    left = [row for row in rows if row.reason in left_to_vendor]
    if left:
        lines.append(f"{settings.VARIABLE}=all would give the kernel {len(left)} of these lines that native serves now")
        lines[-1] += "." if interpreted else f": by device time {_faster(left, 'device')} there."
    wrong = sum(row.fault is not None for row in rows)
    return "\n".join(
        [*lines, *([f"FAULT: the kernel is wrong or could not be run in {wrong} lines."] if wrong else [])]
    )


def _faster(rows: "list[Row]", what: str) -> str:
    ratios = [ratio for row in rows if (ratio := _ratio(row, what)) is not None]
    if not ratios:
        return "nothing could be compared"
    faster = sum(ratio > 1 for ratio in ratios)
    return f"the kernel is faster in {faster} of {len(ratios)} (median ratio {statistics.median(ratios):.2f})"
