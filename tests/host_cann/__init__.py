"""A host-side CANN: the real Ascend Python stack on any x86-64 Linux machine, without an NPU.

What runs unmodified: PyTorch, torch-npu (``npu:0`` tensors, its task queue, its graphs), Triton-Ascend 3.2.0 (its front
end, its generated launcher), Huawei's back-end compiler (``ascendnpu-ir``: 1.2.0, or what the vllm-ascend of the
environment was released with), and vLLM with vllm-ascend above them. Replaced is what a machine without an NPU lacks:

==================  ====================================================================================================
``hivmc/``          ``hivmc``, the compiler's closed last step: the final program -> host code that executes it on a
                    vector core, instruction by instruction, order between pipes checked
``runtime/``        ACL and the runtime, in C over host memory: allocations, virtual memory, streams, events, kernels,
                    graph capture, task groups
``stubs.py``        every other symbol torch-npu links: fails, naming itself
``operators.py``    CANN's operator library: the PyTorch operators vLLM's native rotary code needs, by the CPU's; the
                    others raise, naming themselves
``doubles.py``      the vendors' rotary operators, over the fp32 formula; beside them those of an engine's layers:
                    ``layers.py``, ``attention.py``, ``experts.py``
``extension.py``    vllm-ascend's compiled extension, loaded over stubs, its operators those doubles
``hccl.py``         torch's backend ``hccl`` between processes, by gloo; ``HOST_CANN_DEVICES`` gives each a device
==================  ====================================================================================================

Running one kernel on "an Ascend" on a laptop
---------------------------------------------
Python 3.11 and Debian's packages; the first time it makes an environment and builds::

    scripts/ascend.sh python my_kernel.py               # or: --chip A3
    scripts/ascend.sh pytest tests/host_cann/test_launch.py

In an environment of your own (``scripts/environments.sh`` says what is in ours, and in which order: triton-ascend last,
since mainline triton overwrites its files) the same is ``python -m tests.host_cann.run ...``.

with ``my_kernel.py`` beginning ::

    from tests.host_cann import fixture
    torch = fixture.initialise()             # torch, ready for npu:0

In a test, ask for the fixture ``npu`` instead; see ``fixture.py``. The first use builds into ``.cache/host_cann``,
under a lock, with the launcher's headers (about a minute, most of it those); processes may share it.
``bishengir.compile(linalg, ...)`` asks any installed version of the compiler about a kernel that nobody runs,
``facts.launched(torch, work)`` says what kernels did that ran: transfers, instructions, scalar accesses, flags. Under
``PYTORCH_NO_NPU_MEMORY_CACHING=1``, torch-npu's own setting, each tensor lies between guard pages; without, only each
block of 2 MiB that its allocator cuts tensors from.

What this cannot tell
---------------------
* Time. ``scripts/model_ascend`` models it from what was executed; nothing here was measured.
  Waits that end by time may take 5 ms longer (``runtime/waiting.c``).
* What ``hivmc`` itself does with the final program, which it may still order or refuse.
* Instructions whose meaning is not documented to the last bit (``VEXP``, ``VREC`` …), or not at all: refused by name.
* Races between cores: blocks of a launch run one after another, so blocks that depend on each other pass.
* What a PyTorch operator does on the NPU: here the CPU's implementation answers, and it is captured in a graph only as
  a host function, where a process asks for that (``host_functions.py``).

What it does tell, every time: a missing synchronisation (streams do nothing before somebody waits), an access outside
every allocation, a grid the device refuses, a synchronisation or a first compile during capture, a wrong argument
struct.
"""
