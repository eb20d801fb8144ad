"""Host names, user names, paths and addresses are taken out of whatever a report says."""

import os
import platform
import socket
import sys
from typing import Any

import pytest

from rope_patch.cli.scrubbing import Scrub

HOST, USER = "node-17.corp.example", "alice.smith"
VARIABLES = {
    "HOME": "/home/alice.smith", "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST, "POD_NAME": "llm-serving-7f9c",
    "API_TOKEN": "hf_Abc123Secret", "PYTHONPATH": "/srv/private code/lib:/opt/secret-project",
    "MASTER_ADDR": "gpu-head", "DATASET": "s3bucket-of-alice", "ASCEND_HOME_PATH": "/home/alice.smith/Ascend",
    "PROXY": "proxy.corp.example:3128", "NODE_NAME": "falcon", "DB_PASSWORD": "hunter",
    "LANGSMITH_API_KEY": "lsv2_51ce",
    "POD_NAMESPACE": "acme", "DTYPE": "bfloat16",
}  # fmt: skip
SECRETS = (
    *("alice", "smith", "node-17", "corp.example", "llm-serving", "hf_Abc123Secret", "/home", "/srv", "/opt", "/data"),
    *("private code", "secret-project", "gpu-head", "s3bucket", "10.1.2.3", "fe80", "2001:db8", "aa:bb:cc"),
    *("proxy", "example", "customer", "falcon", "hunter", "lsv2", "acme", "bob", "node-3"),
)
# What a verb may say: exception texts, findings, logs.
SAYS = [
    "FileNotFoundError: [Errno 2] No such file or directory: '/data/customer x/models/glm/config.json'",
    "answers from /home/alice.smith/venv/lib/python3.11/site-packages/vllm",
    'File "/srv/private code/lib/run.py", line 3, in main',
    "cannot import from /srv/private code/lib/run.py: no such file",
    "ConnectionRefusedError: http://10.1.2.3:8000/v1 refused (10.1.2.3:8000)",
    "tcp://[2001:db8::17]:29500 and fe80::a1b2%eth0 and 2001:db8::17, 10.1.2.3/24",
    "ranks disagree: rank 1 (process 17 on node-17) is native",
    "live on NODE-17.corp.example",
    "mail alice.smith@corp.example of Alice",
    "interface aa:bb:cc:dd:ee:ff",
    "VLLM_ASCEND_TRITON_ROPE_REPORT=~alice/reports: native",
    "../customer/x.py and ./customer/y.py",
    "401 for hf_Abc123Secret at llm-serving-7f9c via gpu-head, s3bucket-of-alice",
    "pth in /opt/secret-project/rope.pth,/data/customer/b",
    "falcon said hunter of acme, lsv2_51ce",
    "/home/Bob Smith/models/x failed, ~bob too, C:\\Users\\bob\\x",
    "node-3.cluster.acme.internal did not answer to bob:pw@gpu-head",
]
# What a report is about, and must keep as it is.
KEPT = [
    "AscendRotaryEmbedding.forward_oot: vllm.npu_rotary_embedding",
    "0.1.0, Python 3.11.7, x86_64; vllm 0.23.0, torch 2.10.0+cpu, triton-ascend 3.2.2",
    "native / patched, q/k, 32/8 heads, 12/1",
    "npu:0 (Ascend910B3)",
    "VLLM_PLUGINS=ascend,rope_patch",
    "16954038 of 18364416 lanes, by up to 9.3; 2026-11-30T20:54:45Z",
    "neox bfloat16 q=32x128 kv=8x128: [T, H*D]",
    "first-use check failed: 3 of 480 lanes",
    "dtype bfloat16, about 9 us, torch.ops.vllm.qkv_rmsnorm_rope",
]


@pytest.fixture
def scrub(monkeypatch: pytest.MonkeyPatch) -> Scrub:
    monkeypatch.setattr(os, "environ", {**VARIABLES, "VLLM_PLUGINS": "ascend,rope_patch", "MODE": "eager"})
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr(sys, "path", ["/srv/private code/lib", "", "/opt/secret-project"])
    return Scrub(["/data/customer x/models"], ["other-node"])


@pytest.mark.parametrize("said", SAYS)
def test_whatever_names_a_machine_a_person_or_a_place_is_taken_out(scrub: Scrub, said: str) -> None:
    found = scrub({"a": [{said: said}], "b": (said, 3)})
    for secret in SECRETS:
        assert secret.lower() not in str(found).lower(), found
    assert found["b"][1] == 3


@pytest.mark.parametrize("said", KEPT)
def test_what_a_report_is_about_stays(scrub: Scrub, said: str) -> None:
    assert scrub(said) == said


def test_names_that_only_the_caller_knows_are_taken_out(scrub: Scrub) -> None:
    assert scrub("rank 3 on other-node") == "rank 3 on <name>"


@pytest.mark.parametrize("name", ["root", "vllm", "ascend", "npu"])
def test_a_name_that_a_report_is_about_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    environment: dict[str, Any] = {"USER": name, "HOSTNAME": name, "HOME": f"/home/{name}"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert Scrub()("vllm on npu: ascend, root") == "vllm on npu: ascend, root"
