"""This process's role and rank in vLLM, and the engine that it belongs to. Imports nothing that is not there yet."""

import contextlib
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
    role: str  # "API server", "engine core", "worker", "Ray worker" or "script"
    rank: int | None  # of torch.distributed; None before that is initialised
    world_size: int | None
    engine: str | None  # where its ranks met: the same for all ranks of one engine, different for engines alive at once


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


def _role() -> str:
    name = multiprocessing.current_process().name  # vLLM names its processes
    for part, role in (("EngineCore", "engine core"), ("Worker", "worker"), ("APIServer", "API server")):
        if part in name:
            return role
    ray = sys.modules.get("ray._private.worker")
    if ray is not None and getattr(ray.global_worker, "mode", None) == getattr(ray, "WORKER_MODE", object()):
        return "Ray worker"
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
        # vLLM's ranks meet in a file if they share a host, else at an address.
        met = store.path if hasattr(store, "path") else f"{store.host}:{store.port}"
        return rank, world_size, met
    return rank, world_size, None
