"""The rooms of the package: imports go down and never in a circle, and only rooms with a reason import late."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "rope_patch"
# From top to bottom. A module imports from its own room and those below it; see ``rope_patch/README.md``.
FLOORS = (
    {"__main__", "vllm_plugin", "bootstrap"},
    {"cli"},
    {""},  # rope_patch itself: enable, disable, status
    {"patching"},
    {"operators"},
    {"serving"},
    {"kernels"},
    {"reporting"},
    {"settings", "capability"},
    {"environment"},
)
# Rooms whose modules may import late (inside a function), and why.
LATE = {
    "": "importing rope_patch must cost nothing to a process that never imports vLLM",
    "patching": "a process that never imports vLLM needs the import watch's finder and no more",
    "cli": "help is printed without torch and vLLM, and variables are set before these are imported",
    "vllm_plugin": "without vLLM, or switched off, the patching room is not imported at all",
    "bootstrap": "it is imported into every process, and prints an error of importing rope_patch instead of raising it",
}


class Import:
    """``module`` imports ``target``, both as dotted names under rope_patch ("" for itself), at once or late."""

    def __init__(self, module: str, target: str, late: bool) -> None:
        self.module, self.target, self.late = module, target, late

    def __repr__(self) -> str:
        return f"{self.module or 'rope_patch'} imports {self.target or 'rope_patch'}"


def room(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def modules(package: Path) -> dict[str, Path]:
    names = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(package: Path) -> list[Import]:
    """All imports of every module, including those under ``TYPE_CHECKING``, since a reader follows them too."""
    known, found = modules(package), []
    for module, path in known.items():
        tree = ast.parse(path.read_text())
        inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
        for node in ast.walk(tree):
            for name in _named(node):
                words = name.split(".")
                if words[0] != "rope_patch":
                    continue
                while ".".join(words[1:]) not in known:  # the last word may be a name in a module
                    words.pop()
                target = ".".join(words[1:])
                if target != module:
                    found.append(Import(module, target, id(node) in inside))
    return found


def _named(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def circle(found: list[Import]) -> list[str]:
    """Modules that import each other in a ring, if there are any."""
    graph: dict[str, set[str]] = {}
    for one in found:
        graph.setdefault(one.module, set()).add(one.target)
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module) :]
        if module not in done:
            for target in sorted(graph.get(module, ())):
                if ring := walk(target, [*way, module]):
                    return ring
            done.add(module)
        return []

    return next((ring for module in sorted(graph) if (ring := walk(module, []))), [])


def upward(found: list[Import]) -> list[Import]:
    return [one for one in found if floor(one.target) < floor(one.module) or _sideways(one)]


def _sideways(one: Import) -> bool:
    return floor(one.target) == floor(one.module) and room(one.target) != room(one.module)


def test_no_imports_form_a_circle() -> None:
    assert circle(imports(PACKAGE)) == []


def test_imports_go_down() -> None:
    assert upward(imports(PACKAGE)) == []


def test_only_rooms_with_a_reason_import_late() -> None:
    late = {room(one.module) for one in imports(PACKAGE) if one.late}
    assert late == set(LATE)


def test_serving_knows_no_operator() -> None:
    """Of the kernels it knows what they have in common, and none that computes something."""
    common = {f"kernels.{name}" for name in ("launch", "plan", "planning", "runner", "shortcuts")}
    known = {one.target for one in imports(PACKAGE) if room(one.module) == "serving" and room(one.target) == "kernels"}
    assert known <= common


def test_no_two_files_have_one_name() -> None:
    names = [path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_every_module_has_a_floor() -> None:
    rooms = {room(module) for module in modules(PACKAGE)}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize(
    ("file", "line", "named"),
    [
        ("reporting/ledger.py", "from rope_patch.patching import hooks", "reporting.ledger imports patching.hooks"),
        ("settings.py", "def late():\n    import rope_patch.capability", "settings imports capability"),
        (
            "serving/trial.py",
            "from rope_patch.serving.first_use import forget",
            "serving.trial imports serving.first_use",
        ),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str, named: str) -> None:
    """Shows that the tests above can fail, with a copy of the tree that has one import more."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text() + (f"\n{line}\n" if copy == tmp_path / file else ""))
    found = imports(tmp_path)
    assert named in map(repr, found)
    assert named in map(repr, upward(found)) or set(named.split(" imports ")) <= set(circle(found))


def test_the_host_cann_is_a_tool_that_needs_nothing_else_of_ours():
    tool = ROOT / "tests" / "host_cann"
    ours = {"rope_patch", "scripts", "tests"}
    taken = {
        name
        for path in tool.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level
            else [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else []
        )
        if name.partition(".")[0] in ours
    }  # fmt: skip
    assert {name for name in taken if not name.startswith("tests.host_cann")} == set()
    assert not list(tool.rglob("test_*.py"))


def test_what_is_asked_is_one_argument():
    """Functions with more than seven parameters; kernels are started with all of theirs."""
    many = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and not any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
        and len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) > 7
    ]
    assert many == ["patching/targets/ascend_rope_kernel.py: rope_forward_triton"], "upstream's own parameters"
