"""The pictures are what the command draws from the results that are kept, and say what is measured and modelled."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from scripts.pictures import svg, times, words
from scripts.pictures.__main__ import PICTURES
from scripts.pictures.panel import Panel

NAMES = [str(path.relative_to(path.parents[1])) for path in PICTURES]


@pytest.mark.parametrize("path", PICTURES, ids=NAMES)
def test_what_is_kept_is_what_the_command_draws(path: Path) -> None:
    assert path.read_text() == str(PICTURES[path]()), "python -m scripts.pictures"


@pytest.mark.parametrize("path", PICTURES, ids=NAMES)
def test_it_is_readable_on_light_and_dark_and_by_those_who_cannot_see_it(path: Path) -> None:
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert [root.findtext(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("title", "desc")] != [None, None]
    assert "@media (prefers-color-scheme: dark)" in text
    used = {word for classes in re.findall(r'class="([^"]*)"', text) for word in classes.split()}
    assert [name for name in used if f".{name}" not in text] == []


def test_each_scheme_has_contrast_enough() -> None:
    """WCAG's 4.5 for words, against the paper."""
    for colours, curves in ((svg.LIGHT, svg.LIGHT_CURVES), (svg.DARK, svg.DARK_CURVES)):
        paper, ink, faint = colours[:3]
        for colour in (ink, faint, *curves):
            assert contrast(paper, colour) >= 4.5, colour


def test_both_languages_say_as_much() -> None:
    for picture in ("times", "call"):
        english, chinese = (words.of(picture, language) for language in words.LANGUAGES)
        assert {name: _size(text) for name, text in english.items()} == {n: _size(text) for n, text in chinese.items()}


def _size(text: str | list[str]) -> int:
    return text.count("{}") if isinstance(text, str) else len(text)


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def kept(room: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((times.SCRIPTS / room / "results.json").read_text())
    return found


def test_each_row_says_whether_it_is_measured_or_modelled_and_on_what() -> None:
    assert f">在 {kept('bench_gpu')['gpu']} 上实测<" in str(times.draw("zh"))
    assert "模型估算" in str(times.draw("zh"))
    text = str(times.draw())
    assert f">measured on {kept('bench_gpu')['gpu']}<" in text
    assert f">modelled for an Ascend {kept('model_ascend')['chip']}: nobody measured it<" in text
    assert kept("bench_gpu")["date"] in text
    assert kept("model_ascend")["date"] in text


def test_it_draws_every_kept_time_of_its_models_and_names_wrong_results() -> None:
    gpu, npu = times.measured(kept("bench_gpu")), times.modelled(kept("model_ascend"))
    for model in times.MODELS:
        assert [tokens for tokens, _ in gpu[model][0]] == [1, 8, 32, 128, 512, 2048, 8192]
        assert [tokens for tokens, _ in npu[model][1]] == [1, 64, 512, 2048, 8192]
        assert gpu[model][2] == npu[model][2] == (model == "Phi-3-mini")
    assert str(times.draw()).count(">wrong result<") == 2


def test_its_words_say_who_takes_less_time_and_that_is_so() -> None:
    assert "rope_patch takes less time in every panel" in str(times.draw())
    for found in (times.measured(kept("bench_gpu")), times.modelled(kept("model_ascend"))):
        for ours, theirs, _ in found.values():
            assert all(us < other for (_, us), (_, other) in zip(ours, theirs, strict=True))


def test_a_point_is_where_its_value_is() -> None:
    panel = Panel((10, 20), (300, 100), (1, 1000), (1, 100))
    assert [panel.at(1, 1), panel.at(1000, 100), panel.at(10, 10)] == [(10, 120), (310, 20), pytest.approx((110, 70))]
    assert Panel((0, 0), (10, 100), (1, 10), (0, 2)).at(1, 1) == (0, 50)
