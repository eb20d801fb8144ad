"""Which targets would apply in every release that the registry has: ``python -m scripts.releases``.

Run it in an environment with torch and Triton, such as ``.venvs/vllm``. It takes each release of vllm-ascend, and the
vLLM that it names; and vLLM from 0.24 on by itself. Nothing is built, installed or run: ``registry.py`` reads a few
files of a wheel, or of a source distribution; ``source.py`` makes modules of them whose functions have the parameters,
defaults and code of upstream's, and are never called; and the patch's own targets say of these modules whether they
apply (``verdicts.py``).

``results.json`` keeps the answers, and the table in the targets' README is of it. Exit status 1 if the registry has a
release that is not in it, or if an answer has changed, such as a target that is refused now; both are named. ``--keep``
writes the new answers. Without a registry nothing can be said: then status 2.
"""
