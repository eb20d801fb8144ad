"""Every kernel that this package can start on an Ascend NPU, asked of Huawei's own compilers: is it taken?

    python -m scripts.census                       the shapes of models, the ways of calling, the plans; tables
    python -m scripts.census --json FILE           and a file with a record for each kernel
    python -m scripts.census --positions 3         those of vision-language models, with three positions a token
    python -m scripts.census --quick               every twentieth kernel
    python -m scripts.census --compiler 1.2.0 --chip 910B3
    python -m scripts.census --reports             six reports of users about vllm-ascend's kernel, instead
    python -m scripts.census.unchanged FILE        hashes of all kernels' Linalg, and of all plans; no compiler is asked

It needs triton-ascend and a compiler (``tests/host_cann/bishengir.py`` says how they are found), no NPU and no CANN.
``results.json`` and ``three_positions.json`` are the last whole runs; a test fails when kernels or plans have changed
since.

Kernels that are the same are asked about once. So are chips whose description in the compiler's program is the same
but for the number of cores: one chip of such a group is asked about every kernel, the others about every twentieth. If
one is answered differently, the first is asked again, since 1.0.0 does not lay out every kernel the same way twice (in
GPT-J style up to 8 KiB apart); an answer that the first never gets is told, and makes the exit status 1.

The 950 is information only: another instruction set, which triton-ascend as published is not switched to. It is asked
about bf16 with a key, with the options that triton-ascend's source has for it.

What a compiler takes may still fail in ``hivmc``, the last step, which is not published, or on the hardware.
"""
