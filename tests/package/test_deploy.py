"""What ``scripts/deploy`` says to Kubernetes: names that are known, a folder that works, and a probe that ends."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rope_patch.settings import NAMES, REPORT, VARIABLE, parse
from tests.conftest import DOUBLES, ROOT, Run, clean_environment

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    manifest = yaml.safe_load((ROOT / "scripts" / "deploy" / "kubernetes.yaml").read_text())
    (one,) = manifest["spec"]["template"]["spec"]["containers"]
    assert {mount["name"] for mount in one["volumeMounts"]} == {
        volume["name"] for volume in manifest["spec"]["template"]["spec"]["volumes"]
    }
    found: dict[str, Any] = one
    return found


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """As an ``emptyDir``: of another user, and writable for all."""
    folder = tmp_path / "emptyDir"
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, 1234, 1234)
    folder.chmod(0o777)
    return folder


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def test_the_manifest_sets_variables_that_rope_patch_knows(container: dict[str, Any]) -> None:
    set_here = variables(container)
    assert set(set_here) == {VARIABLE, REPORT}
    assert set(set_here) <= set(NAMES)
    assert parse(set_here).complaints == ()


def test_the_reports_folder_is_one_that_each_process_makes_in_the_volume(container: dict[str, Any]) -> None:
    (mount,) = container["volumeMounts"]
    assert str(Path(variables(container)[REPORT]).parent) == mount["mountPath"]


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


REPORTS = """
import os, subprocess, sys
import rope_target, rope_patch, vllm.model_executor.layers.rotary_embedding.base
from rope_patch.reporting.keeper import Keeper
Keeper(os.environ["VLLM_ASCEND_TRITON_ROPE_REPORT"], rope_patch.status).look()
probe = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(probe.returncode, probe.stdout, probe.stderr)
"""


@pytest.mark.parametrize(("serves", "status"), [(True, "0"), (False, "1")])
def test_the_probe_passes_once_the_server_serves_and_reports(
    container: dict[str, Any], volume: Path, tmp_path: Path, serves: bool, status: str
) -> None:
    server = HTTPServer(("localhost", 0), Health)
    port = server.server_port
    if serves:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    else:
        server.server_close()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    (programs / "rope-patch").write_text(f'#!/bin/sh\nexec {sys.executable} -m rope_patch "$@"\n')
    (programs / "rope-patch").chmod(0o755)
    shell, option, line = container["startupProbe"]["exec"]["command"]
    (mount,) = container["volumeMounts"]
    environment = clean_environment() | {
        name: value.replace(mount["mountPath"], str(volume)) for name, value in variables(container).items()
    }
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, (DOUBLES, ROOT))),
    }
    command = [sys.executable, "-c", REPORTS, shell, option, line.replace("localhost:8000", f"localhost:{port}")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    server.server_close()
    assert done.stdout.split(maxsplit=1)[0] == status, done
    assert ("rotary_embedding" in done.stdout) == serves
    assert not serves or (volume / "reports").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_the_volume_itself_is_refused_and_a_subfolder_is_named(
    volume: Path, with_doubles: Run
) -> None:
    if os.getuid() != 0:
        pytest.skip("a folder of another user takes root")
    code = """
import rope_target, rope_patch, vllm.model_executor.layers.rotary_embedding.base
from rope_patch.reporting import keeper
keeper.Keeper(rope_patch.settings.current().report, rope_patch.status).look()
"""
    printed = with_doubles(code, **{REPORT: str(volume)})
    assert f"{volume}/rope_patch" in printed
