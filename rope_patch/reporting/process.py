"""This process's role and rank in vLLM, and the engine that it belongs to. Imports nothing that is not there yet."""

import contextlib
import ipaddress
import multiprocessing
import os
import socket
import sys
import time
from typing import Any, TypedDict


class Process(TypedDict):
    """One process. ``pid`` and ``started`` together identify it on its host."""

    host: str
    pid: int
    started: str  # clock ticks since the host booted, from /proc
    role: str  # "API server", "engine core", "worker", "Ray worker", "model inspector" or "script"
    rank: int | None  # of torch.distributed; None before that is initialised
    world_size: int | None
    engine: str | None  # where its ranks met: the same for all ranks of one engine, different for engines alive at once
    switched: int  # how often enable() or disable() was called


switched = 0  # counted by ``rope_patch.enable`` and ``rope_patch.disable``


def this() -> Process:
    """This process, as far as it is known now."""
    rank, world_size, engine = _ranks()
    pid = os.getpid()
    return Process(
        host=socket.gethostname(),
        pid=pid,
        started=started(pid) or "",
        role=_role(),
        rank=rank,
        world_size=world_size,
        engine=engine,
        switched=switched,
    )


def started(pid: int) -> str | None:
    """When process ``pid`` of this host started, in clock ticks since boot; None if it has ended or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # the name before it may contain anything, ")" too
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


INSPECTS = os.path.join("vllm", "model_executor", "models", "registry.py")  # a script that looks at a model's class


def _role() -> str:
    name = multiprocessing.current_process().name  # vLLM names its processes
    for part, role in (("EngineCore", "engine core"), ("Worker", "worker"), ("APIServer", "API server")):
        if part in name:
            return role
    ray = sys.modules.get("ray._private.worker")
    if ray is not None and getattr(ray.global_worker, "mode", None) == getattr(ray, "WORKER_MODE", object()):
        return "Ray worker"
    if sys.argv[0].endswith(INSPECTS):
        return "model inspector"
    serving = sys.argv[1:2] == ["serve"] or sys.argv[0].endswith("api_server.py")
    return "API server" if serving else "script"


def _ranks() -> tuple[int | None, int | None, str | None]:
    """Rank, world size, and the address or file of the store at which the ranks met."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not getattr(distributed, "is_initialized", bool)():
        return None, None, None
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    with contextlib.suppress(Exception):  # there is no public way to the store
        store = distributed.distributed_c10d._get_default_store()
        while hasattr(store, "underlying_store"):
            store = store.underlying_store
        return rank, world_size, _meeting(store)
    return rank, world_size, None


def _meeting(store: Any) -> str:
    """The address or file of the store, as a name that no engine elsewhere has.

    vLLM's ranks meet at a loopback address or in a file if they share a host. Such a place is another one on every
    host, and in every container that has a network or files of its own.
    """
    if hasattr(store, "path"):
        return f"{store.path} of {_namespace('mnt')}"
    met = f"{store.host}:{store.port}"
    return f"{met} of {_namespace('net')}" if _is_loopback(store.host) else met


def _is_loopback(host: str) -> bool:
    if host.partition(".")[0] in ("localhost", "ip6-localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified  # who connects to 0.0.0.0 reaches this host


def _namespace(kind: str) -> str:
    """This process's namespace of that kind, the boot of its host included.

    Not the host's name, which pods may share. The ranks of an engine that meet so are children of one process, and
    have its namespaces.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink(f'/proc/self/ns/{kind}')}"
    except OSError:
        return socket.gethostname()
