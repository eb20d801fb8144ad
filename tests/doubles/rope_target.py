"""Stands in for ``rope_patch.patching.targets.rotary_embedding``. It rotates nothing and needs no torch.

Import it before rope_patch.
"""

import sys

installed = 0


def install(module, settings):
    global installed
    installed += 1
    from rope_patch.patching.replace import replace

    native = module.RotaryEmbedding.forward_native

    def make(original):
        def forward_oot(self, *args):
            return "ours" if type(self).forward_native is native else original(self, *args)

        return forward_oot

    return replace(module, "RotaryEmbedding.forward_oot", make)


sys.modules["rope_patch.patching.targets.rotary_embedding"] = sys.modules[__name__]
