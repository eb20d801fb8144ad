"""Building the host CANN: missing tools are named, linked symbols exist, and stubs name themselves when called."""

import ctypes
import fcntl
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.host_cann import build, chips, environment, library, stubs
from tests.host_cann.fixture import needs_build


def test_a_missing_tool_is_named_with_its_package(monkeypatch):
    which = build.shutil.which
    monkeypatch.setattr(build.shutil, "which", lambda name: None if name == "llc-19" else which(name))
    with pytest.raises(build.Missing, match=r"apt install.*llvm-19"):
        build.check()


def test_a_missing_package_is_named(monkeypatch):
    find = build.importlib.util.find_spec
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None if name == "torch_npu" else find(name))
    with pytest.raises(build.Missing, match=r"pip install.*torch-npu"):
        build.check()


def test_an_unknown_chip_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.setenv(chips.SETTING, "910Z")
    with pytest.raises(KeyError, match=r"910B3.*A3.*310P"):
        chips.current()


@needs_build
def test_a_second_build_is_the_first_and_costs_nothing():
    first = build.ensure()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert build.ensure() == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before, "nothing is made again"
    assert build.HERE.parents[1] in first.parents, "nothing outside the checkout"


@needs_build
def test_a_build_waits_for_one_that_is_under_way():
    build.ensure()
    with open(build.CACHE / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen([sys.executable, "-m", "tests.host_cann.build"], cwd=ROOT, stdout=subprocess.PIPE)
        waits = re.compile(rf"-> FLOCK .* {second.pid} ")  # as the kernel lists who waits for a lock
        while not waits.search(Path("/proc/locks").read_text()):
            assert second.poll() is None, "it did not wait"
            time.sleep(0.05)
    assert second.communicate()[0].decode().strip() == str(build.ensure())


IN_USE = """
import sys
from pathlib import Path
from tests.host_cann import build
build.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_build_that_a_process_uses_outlasts_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "check", lambda: None)
    monkeypatch.setattr(build, "CACHE", tmp_path)
    monkeypatch.setattr(build, "make", lambda out: out.mkdir())
    for name in ("mine-used", "mine-unused", "others-unused"):
        (tmp_path / name).mkdir()
    user = subprocess.Popen(
        [sys.executable, "-c", IN_USE, tmp_path / "mine-used"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert user.stdout.readline() == "held\n"
    monkeypatch.setattr(build, "key", lambda: "mine-new")
    build.ensure()
    assert {path.name for path in tmp_path.glob("*-*")} == {"mine-used", "mine-new", "others-unused"}
    user.communicate()
    monkeypatch.setattr(build, "key", lambda: "mine-newer")
    build.ensure()
    kept = {path.name for path in tmp_path.glob("*-*")}
    assert kept == {"mine-new", "mine-newer", "others-unused"}, "this process still uses the one before"


@needs_build
def test_a_command_on_the_host_cann_holds_its_build():
    links = "import glob, os; print(*map(os.path.realpath, glob.glob('/proc/self/fd/*')))"
    command = [sys.executable, "-m", "tests.host_cann.run", "python", "-c", links]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(build.ensure() / build.USERS) in done.stdout.split()


@needs_build
def test_every_symbol_that_torch_npu_links_is_there():
    home = build.ensure()
    libraries = (build.site() / "torch_npu").rglob("*.so")
    torch_libraries = list((build.site() / "torch" / "lib").glob("*.so*"))
    assert stubs.linked(libraries, [*torch_libraries, home / "lib64" / "libascendcl.so"]) == set()


@needs_build
def test_a_stub_fails_and_names_itself(capfd):
    library = ctypes.CDLL(str(build.ensure() / "lib64" / "libascendcl.so"))
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    assert library.aclrtProcessReport() != 0
    assert b"aclrtProcessReport is not implemented" in library.aclGetRecentErrMsg()
    assert "aclrtProcessReport is not implemented" in capfd.readouterr().err


@needs_build
def test_a_stub_of_a_cpp_symbol_throws_naming_it(tmp_path):
    home = build.ensure()
    symbol = next(n for n in re.findall(r"long (_Z\w+)\(\)", (home / "stubs.cpp").read_text()))
    (tmp_path / "call.cpp").write_text(f"""
#include <stdexcept>
#include <cstdio>
extern "C" long {symbol}();
int main() {{ try {{ {symbol}(); }} catch (const std::exception &e) {{ puts(e.what()); return 3; }} }}
""")
    program = tmp_path / "call"
    library.run("g++", tmp_path / "call.cpp", f"-L{home}/lib64", "-lascendcl", "-o", program)
    done = subprocess.run([program], env=environment.variables(home), capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout == f"host CANN: {symbol} is not implemented\n"
    assert f"{symbol} is not implemented" in done.stderr


def test_stub_sources_fail_in_the_way_their_callers_see():
    text = stubs.source({"aclFoo", "aclMakeBar", "_ZN2ge3FooEv"}, pointers={"aclMakeBar"})
    assert 'long aclFoo() { return host_unimplemented("aclFoo"); }' in text
    assert 'long aclMakeBar() { host_unimplemented("aclMakeBar"); return 0; }' in text
    assert "throw std::runtime_error" in text.split("_ZN2ge3FooEv() {")[1]
