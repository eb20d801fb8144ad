"""Which kernels can serve an operator: a new kernel is a new file, with its class of plans, and one entry here."""

from rope_patch.kernels.by_heads import ByHeads
from rope_patch.kernels.normed import NormedTiles
from rope_patch.kernels.normed_by_heads import NormedByHeads
from rope_patch.kernels.normed_padded_plan import NormedPadded
from rope_patch.kernels.normed_parts import NormedParts
from rope_patch.kernels.padded_plan import Padded
from rope_patch.kernels.planning import Kernels
from rope_patch.kernels.tiles import Tiles
from rope_patch.kernels.transposed import Transposed

ROTATION: Kernels = (Transposed, Tiles, ByHeads, Padded)
NORMED: Kernels = (NormedTiles, NormedParts, NormedByHeads, NormedPadded)
