"""Stands in for ``rope_patch.patching.targets.rotary_embedding``. It rotates nothing and needs no torch.

Import it before rope_patch.
"""

import functools
import sys

made = 0


def replacement(module, settings):
    global made
    made += 1
    from rope_patch.patching.replacement import Replacement

    native = module.RotaryEmbedding.forward_native

    def make(original, is_on):
        @functools.wraps(original)
        def forward_oot(self, *args):
            return "ours" if is_on() and type(self).forward_native is native else original(self, *args)

        return forward_oot

    return Replacement(module, "RotaryEmbedding.forward_oot", make)


sys.modules["rope_patch.patching.targets.rotary_embedding"] = sys.modules[__name__]
