"""The environment variable, parsed once into a frozen dataclass. Knows neither torch nor vLLM."""

import enum
from dataclasses import dataclass

VARIABLE = "VLLM_ASCEND_TRITON_ROPE"


class Mode(enum.Enum):
    """What the operator asked for."""

    OFF = "off"  # touch nothing
    ON = "on"  # use the kernel where this process is capable of it
    ALL = "all"  # as ON, and also take calls that a vendor operator serves
    FORCE = "force"  # as ON, but a missing capability is an error


_SPELLINGS = {
    Mode.ON: ("", "1", "true", "on", "auto"),
    Mode.OFF: ("0", "false", "off", "no"),
    Mode.ALL: ("all",),
    Mode.FORCE: ("force",),
}
_MODES = {spelling: mode for mode, spellings in _SPELLINGS.items() for spelling in spellings}


@dataclass(frozen=True)
class Settings:
    """The parsed variable. ``complaint`` says what is wrong with a value that means nothing; native serves then."""

    mode: Mode
    value: str | None
    complaint: str | None = None


def parse(value: str | None) -> Settings:
    """Parse a value of ``VLLM_ASCEND_TRITON_ROPE``; None stands for unset. Case and outer white space do not matter."""
    mode = _MODES.get((value or "").strip().lower())
    if mode is not None:
        return Settings(mode, value)
    valid = ", ".join(spelling for spelling in _MODES if spelling)
    return Settings(
        Mode.OFF, value, f"{VARIABLE}={value!r} means nothing, expected one of {valid}; vLLM serves natively"
    )
