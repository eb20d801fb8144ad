"""The environment variables."""

import pytest

from rope_patch.patching.targets import TARGETS
from rope_patch.settings import CHECK, DRIVER, NATIVE, REPORT, TARGET_NAMES, VARIABLE, Mode, parse


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        (None, Mode.ON), ("", Mode.ON), ("1", Mode.ON), ("true", Mode.ON), ("on", Mode.ON), ("auto", Mode.ON),
        ("0", Mode.OFF), ("false", Mode.OFF), ("off", Mode.OFF), ("no", Mode.OFF),
        ("all", Mode.ALL), ("force", Mode.FORCE), (" OFF ", Mode.OFF), ("True", Mode.ON),
    ],
)  # fmt: skip
def test_a_valid_value_means_what_the_readme_says(value: str | None, mode: Mode) -> None:
    settings = parse({} if value is None else {VARIABLE: value})
    assert settings.mode is mode
    assert settings.value == value
    assert not settings.complaints


@pytest.mark.parametrize("value", ["2", "yes please", "-1"])
def test_an_invalid_value_means_off_and_the_complaint_names_it_and_the_valid_ones(value: str) -> None:
    settings = parse({VARIABLE: value})
    assert settings.mode is Mode.OFF
    (complaint,) = settings.complaints
    assert repr(value) in complaint
    for valid in ("auto", "off", "all", "force"):
        assert valid in complaint


@pytest.mark.parametrize("value", [None, "1", "all", "force", "0"])
def test_a_ray_driver_that_is_switched_off_wins_over_what_the_node_says(value: str | None) -> None:
    settings = parse({DRIVER: "0"} | ({} if value is None else {VARIABLE: value}))
    assert settings.mode is Mode.OFF
    assert settings.why_off == f"switched off by the Ray driver ({DRIVER}=0)"


@pytest.mark.parametrize(("value", "check"), [(None, True), ("", True), ("on", True), ("0", False), ("Off", False)])
def test_the_first_use_check_is_on_unless_switched_off(value: str | None, check: bool) -> None:
    settings = parse({} if value is None else {CHECK: value})
    assert settings.check is check
    assert not settings.complaints


@pytest.mark.parametrize("value", ["all", "never"])
def test_an_invalid_value_of_the_check_leaves_the_check_and_the_kernel_on(value: str) -> None:
    settings = parse({CHECK: value})
    assert settings.check
    assert settings.mode is Mode.ON
    (complaint,) = settings.complaints
    assert f"{CHECK}={value!r}" in complaint


@pytest.mark.parametrize(
    ("value", "native"),
    [
        (None, set()),
        ("", set()),
        (" , ", set()),
        ("mrope", {"mrope"}),
        ("mrope,ascend_mrope", {"mrope", "ascend_mrope"}),
        (" Ascend_MRoPE , mrope,,mrope", {"mrope", "ascend_mrope"}),
    ],
)
def test_single_targets_are_left_native_by_their_names(value: str | None, native: set[str]) -> None:
    settings = parse({} if value is None else {NATIVE: value})
    assert settings.native == native
    assert settings.mode is Mode.ON
    assert not settings.complaints


@pytest.mark.parametrize("value", ["mropes", "mrope,kernel", "mrope ascend_mrope", "all"])
@pytest.mark.parametrize("mode", ["1", "all", "force"])
def test_an_unknown_target_means_off_and_the_complaint_names_it_and_the_valid_ones(value: str, mode: str) -> None:
    settings = parse({VARIABLE: mode, NATIVE: value})
    assert settings.mode is Mode.OFF
    (complaint,) = settings.complaints
    assert f"{NATIVE}={value!r} is not valid" in complaint
    assert complaint.endswith(f"{', '.join(TARGET_NAMES)}; vLLM serves natively")
    assert settings.why_off == complaint


def test_the_valid_names_are_those_of_the_targets() -> None:
    assert tuple(target.name for target in TARGETS) == TARGET_NAMES


@pytest.mark.parametrize("other", [{CHECK: "maybe"}, {NATIVE: "kernels"}, {CHECK: "0"}])
def test_switched_off_is_the_reason_whatever_else_is_wrong(other: dict[str, str]) -> None:
    assert parse({VARIABLE: "off", **other}).why_off == f"switched off by {VARIABLE}=off"


def test_no_other_variable_is_kept() -> None:
    ours = {VARIABLE: "1", REPORT: "/somewhere", CHECK: "0", NATIVE: "mrope"}
    assert parse(ours | {"SECRET": "s", f"{VARIABLE}_OTHER": "o"}).environment == ours
    assert parse({REPORT: ""}).report is None
