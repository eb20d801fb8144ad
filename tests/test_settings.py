"""The environment variable."""

import pytest

from rope_patch.settings import Mode, parse


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        (None, Mode.ON), ("", Mode.ON), ("1", Mode.ON), ("true", Mode.ON), ("on", Mode.ON), ("auto", Mode.ON),
        ("0", Mode.OFF), ("false", Mode.OFF), ("off", Mode.OFF), ("no", Mode.OFF),
        ("all", Mode.ALL), ("force", Mode.FORCE), (" OFF ", Mode.OFF), ("True", Mode.ON),
    ],
)  # fmt: skip
def test_a_valid_value_means_what_the_readme_says(value: str | None, mode: Mode) -> None:
    assert parse(value).mode is mode
    assert parse(value).complaint is None


@pytest.mark.parametrize("value", ["2", "yes please", "-1"])
def test_an_invalid_value_is_native_and_names_itself_and_the_valid_ones(value: str) -> None:
    settings = parse(value)
    assert settings.mode is Mode.OFF
    assert repr(value) in str(settings.complaint)
    for valid in ("auto", "off", "all", "force"):
        assert valid in str(settings.complaint)
