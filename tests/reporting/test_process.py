"""What a process says of itself: its role, and an engine's name, which no engine elsewhere has."""

import io
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from rope_patch.reporting import process

LOCAL = [
    *(SimpleNamespace(host=host, port=29500) for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost")),
    *(
        SimpleNamespace(host=host, port=29500)
        for host in ("::ffff:127.0.0.1", "0.0.0.0", "::", "localhost.localdomain")
    ),
    SimpleNamespace(path="/tmp/store"),
]


def engine(monkeypatch: pytest.MonkeyPatch, store: Any, boot: str = "b0", space: str = "4026531840") -> str | None:
    """The engine's name in a process of that boot and namespaces whose ranks met at ``store``."""
    met = SimpleNamespace(_get_default_store=lambda: SimpleNamespace(underlying_store=store))
    ranks = SimpleNamespace(is_initialized=lambda: True, get_rank=lambda: 1, get_world_size=lambda: 2)
    ranks.distributed_c10d = met
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torch.distributed", ranks)
        real = open

        def opened(path: Any, *rest: Any, **more: Any) -> Any:
            return io.StringIO(f"{boot}\n") if str(path).endswith("boot_id") else real(path, *rest, **more)

        patched.setattr(process, "open", opened, raising=False)
        patched.setattr(os, "readlink", lambda path: f"{os.path.basename(path)}:[{space}]")
        return process.this()["engine"]


@pytest.mark.parametrize("store", LOCAL, ids=lambda store: getattr(store, "host", "file"))
def test_engines_that_met_at_the_same_local_place_of_two_hosts_or_containers_differ(
    monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    here = engine(monkeypatch, store)
    assert here == engine(monkeypatch, store), "every rank finds the same name"
    assert here
    names = {here, engine(monkeypatch, store, boot="b1"), engine(monkeypatch, store, space="4026532999")}
    assert len(names) == 3


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1", "node-0", "localhostess", "127.example.org"])
def test_ranks_on_several_hosts_find_the_same_name(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    store = SimpleNamespace(host=host, port=29500)
    here, there = (engine(monkeypatch, store, boot, space) for boot, space in (("b0", "1"), ("b1", "2")))
    assert here == there == f"{host}:29500"


def test_without_proc_the_hosts_name_tells_engines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", missing)
    monkeypatch.setattr("socket.gethostname", lambda: "pod-0")
    assert process._meeting(SimpleNamespace(path="/tmp/store")) == "/tmp/store of pod-0"


@pytest.mark.parametrize(
    ("script", "role"),
    [
        ("/site-packages/vllm/model_executor/models/registry.py", "model inspector"),
        ("/site-packages/vllm/entrypoints/openai/api_server.py", "API server"),
        ("/home/me/registry.py", "script"),
    ],
)
def test_the_role_of_a_script(monkeypatch: pytest.MonkeyPatch, script: str, role: str) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    assert process.this()["role"] == role


def test_a_process_is_identified_by_its_start_time_too() -> None:
    assert process.started(os.getpid()) == process.this()["started"]
    assert process.started(2**22 + 1) is None
