"""The page of text that is beside a report: all that a person asks first, from the report's data alone."""

from typing import Any

from rope_patch.cli.answer import table

Data = dict[str, Any]


def text(data: Data) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    known = {name: machine[name] or "not found" for name in ("driver", "cann", "compiler")}
    device = chip(data) or "no device"
    if not machine["device_files"]:
        device += ", without a driver's device file: no figure here is a device's"
    lines = [
        f"rope_patch report of {data['written']}: {device}",
        f"driver {known['driver']}, CANN {known['cann']}, compiler {known['compiler']}",
        f"{versions}; Python {machine['python']}, {machine['system']}",
    ]
    for verb, part in data["parts"].items():
        lines += ["", f"{verb}: {_outcome(part)}"]
        if "answer" in part:
            lines += _SHOWN[verb](part["answer"])
    return "\n".join(lines)


def chip(data: Data) -> str | None:
    """What the device calls itself."""
    for verb in ("bench", "verify"):
        device = str(data["parts"][verb].get("answer", {}).get("device", ""))
        if device:
            return device.partition("(")[2].rpartition(")")[0] or device
    return None


def _outcome(part: Data) -> str:
    words = {0: "all is well", 1: "something is wrong", 2: "it could not be found out"}
    if "answer" not in part:
        return str(part["why"])
    return f"{words.get(part['status'], part['status'])} ({part['seconds']:.0f} s)"


def _doctor(answer: Data) -> list[str]:
    lines = [f"  {answer['verdict']}"]
    for finding in answer["findings"]:
        mark = "FAULT " if finding["ok"] is False else ""
        lines.append(f"  {mark}{finding['name']}: {finding['found']}")
        lines += [f"    -> {finding['fix']}"] if finding["fix"] else []
    return lines


def _status(answer: Data) -> list[str]:
    lines = []
    for one in answer["processes"]:
        status = one["status"]
        rank = "" if one["rank"] is None else f" {one['rank']} of {one['world_size']}"
        calls = f"served {sum(status['calls'].values())}, handed back {sum(status['fallbacks'].values())}"
        lines.append(f"  {one['role']}{rank}, {one['life']}: {calls}; {status['reason']}")
        lines += [f"    handed back {count} times: {reason}" for reason, count in status["fallbacks"].items()]
    return [*lines, *(f"  ! {problem}" for problem in answer["problems"])]


def _verify(answer: Data) -> list[str]:
    rows = []
    for one in answer["results"]:
        sides = (_side(one[side]) for side in ("with", "without"))
        rows.append((*_shape(one["shape"]), one["dtype"], *sides, one["table"] or ""))
    header = ("shape", "heads", "rotary", "style", "dtype", "with rope_patch", "without", "table")
    return [f"  {answer['verdict']}; from {answer['way']}", *_indented(header, rows)]


def _side(side: Data) -> str:
    wrong = f", {side['wrong']} of {side['lanes']} lanes by up to {side['max_error']:.2g}" if side["wrong"] else ""
    said = f" ({side['said']})" if side["said"] else ""
    return f"{side['serves']}: {side['outcome']}{wrong}{said}"


def _bench(answer: Data) -> list[str]:
    rows = []
    for one in answer["results"]:
        device = [_time(one[who], "device") for who in ("native", "patched")]
        host = [_time(one[who], "host") for who in ("native", "patched")]
        remarks = "; ".join(filter(None, (one["reason"], *one["remarks"], one["fault"])))
        rows.append((*_shape(one["shape"]), one["tokens"], *device, *host, one["serves"], one["natively"], remarks))
    header = ("shape", "heads", "rotary", "style", "tokens", "device us: native", "kernel", "host us: native", "kernel")
    said = f"  {answer['dtype']}; medians, and the distance between quartiles; * with the host's time in it"
    return [said, *_indented((*header, "serves", "natively", "remarks"), rows)]


def _time(times: Data | None, what: str) -> str:
    time = times and times[what]
    if not times or not time:
        return "-"
    star = "*" if what == "device" and times["device_by"] != "graph replay" else ""
    return f"{time['median_us']:.1f}{star} ±{time['spread_us']:.1f}"


def _shape(shape: Data) -> tuple[str, str, str, str]:
    heads = f"{shape['num_heads']}/{shape['num_kv_heads']}"
    style = "neox" if shape["is_neox_style"] else "gpt-j"
    return shape["name"], heads, f"{shape['rotary_dim']} of {shape['head_size']}", style


def _indented(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return [f"  {line}" for line in table(header, rows).split("\n")]


_SHOWN = {"doctor": _doctor, "status": _status, "verify": _verify, "bench": _bench}
