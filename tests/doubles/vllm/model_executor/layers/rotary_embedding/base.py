import builtins

from vllm.custom_op import CustomOp


class RotaryEmbedding(CustomOp):
    def forward_native(self, positions, query, key=None):
        return "native"


class Scaled(RotaryEmbedding):
    pass


class OwnMathematics(RotaryEmbedding):
    def forward_native(self, positions, query, key=None):
        return "its own"


# A test that wants to act while this module is half imported leaves a function here.
getattr(builtins, "while_half_imported", lambda: None)()
EARLY = RotaryEmbedding()  # an instance that exists before any import hook can run
