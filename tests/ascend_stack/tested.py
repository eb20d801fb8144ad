"""Which releases of vllm-ascend are tested, and how: ``scripts/releases/tested.txt``. Imports the standard library."""

from pathlib import Path

LIST = Path(__file__).parents[2] / "scripts" / "releases" / "tested.txt"
_LINES = [line.split() for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
ROLES = {version: frozenset(roles) for version, *roles in _LINES}


def having(role: str) -> tuple[str, ...]:
    """The releases that have this role, in the list's order."""
    return tuple(version for version, roles in ROLES.items() if role in roles)


(NEWEST,) = having("newest")
