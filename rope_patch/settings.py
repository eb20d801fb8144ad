"""The environment variables, parsed once into a frozen dataclass. Knows neither torch nor vLLM."""

import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from rope_patch import environment as started

VARIABLE = started.PREFIX
REPORT = f"{VARIABLE}_REPORT"
CHECK = f"{VARIABLE}_CHECK"
NATIVE = f"{VARIABLE}_NATIVE"
DRIVER = f"{VARIABLE}_DRIVER"  # set for its workers by a Ray driver that is switched off; wins over ``VARIABLE``
NAMES = VARIABLE, NATIVE, REPORT, CHECK, DRIVER
# What is replaced, by the names that ``NATIVE`` takes: the files of ``patching/targets``, in the same order.
TARGET_NAMES = (
    "rotary_embedding",
    "mrope",
    "longrope",
    "ascend_rope_kernel",
    "ascend_rotary_class",
    "ascend_without_key",
    "ascend_mrope",
    "qkv_rmsnorm_rope",
    "qkv_rmsnorm_mrope",
)


class Mode(enum.Enum):
    """What the operator asked for."""

    OFF = "off"  # replace nothing
    ON = "on"  # use the kernel where this process is capable of it
    ALL = "all"  # as ON, and also take calls that a vendor operator serves
    FORCE = "force"  # as ON, but a missing capability is an error


_ON, _OFF = ("", "1", "true", "on", "auto"), ("0", "false", "off", "no")
_SPELLINGS = {Mode.ON: _ON, Mode.OFF: _OFF, Mode.ALL: ("all",), Mode.FORCE: ("force",)}
_MODES = {spelling: mode for mode, spellings in _SPELLINGS.items() for spelling in spellings}


@dataclass(frozen=True)
class Settings:
    """The parsed variables.

    Attributes:
        mode: the meaning of ``VLLM_ASCEND_TRITON_ROPE``; OFF if its value or a name in ``native`` is not a valid one,
            or if the process is a worker of a Ray driver that is switched off.
        native: the targets that ``VLLM_ASCEND_TRITON_ROPE_NATIVE`` leaves native, by their names.
        report: the folder of ``VLLM_ASCEND_TRITON_ROPE_REPORT``, or None.
        check: ``VLLM_ASCEND_TRITON_ROPE_CHECK``: whether a kernel is checked before it first serves a signature.
        environment: rope_patch's own variables, as they were at import.
        complaints: one message for each variable whose value is not a valid one.
    """

    mode: Mode
    native: frozenset[str]
    report: str | None
    check: bool
    environment: Mapping[str, str]
    complaints: tuple[str, ...]

    @property
    def value(self) -> str | None:
        """``VLLM_ASCEND_TRITON_ROPE`` as it was set."""
        return self.environment.get(VARIABLE)

    @property
    def why_off(self) -> str:
        """Why the mode is OFF, in words."""
        if DRIVER in self.environment:
            return f"switched off by the Ray driver ({DRIVER}={self.environment[DRIVER]})"
        if _MODES.get((self.value or "").strip().lower()) is Mode.OFF:
            return f"switched off by {VARIABLE}={self.value}"
        return "; ".join(complaint for complaint in self.complaints if not complaint.startswith(f"{CHECK}="))


@functools.cache
def current() -> Settings:
    """This process's settings, as they were when rope_patch was imported."""
    return parse(started.variables)


def parse(environment: Mapping[str, str]) -> Settings:
    """Parse rope_patch's variables. Case and surrounding white space do not matter."""
    complaints = []
    mode, check = (_MODES.get(environment.get(name, "").strip().lower()) for name in (VARIABLE, CHECK))
    if mode is None:
        valid = ", ".join(spelling for spelling in _MODES if spelling)
        complaints.append(_complaint(environment, VARIABLE, valid, "vLLM serves natively"))
    if check not in (Mode.ON, Mode.OFF):
        valid = ", ".join(spelling for spelling in _ON + _OFF if spelling)
        complaints.append(_complaint(environment, CHECK, valid, "kernels are checked"))
    native = frozenset(filter(None, (name.strip().lower() for name in environment.get(NATIVE, "").split(","))))
    if unknown := native - set(TARGET_NAMES):
        complaints.append(_complaint(environment, NATIVE, ", ".join(TARGET_NAMES), "vLLM serves natively"))
    return Settings(
        mode=Mode.OFF if mode is None or unknown or DRIVER in environment else mode,
        native=native,
        report=environment.get(REPORT) or None,
        check=check is not Mode.OFF,
        environment={name: environment[name] for name in NAMES if name in environment},
        complaints=tuple(complaints),
    )


def _complaint(environment: Mapping[str, str], name: str, valid: str, consequence: str) -> str:
    return f"{name}={environment[name]!r} is not valid, expected one of {valid}; {consequence}"
