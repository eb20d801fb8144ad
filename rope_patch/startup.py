"""What `rope-patch install` has Python 3.15 and newer call when they start, by a ``.start`` file (PEP 829)."""


def start() -> None:
    """Nothing more is to be done: resolving this name imported ``rope_patch``, and that is what switches it on.

    So the gate is rope_patch's own. The .pth, for older Pythons, decides before the import, since its gate stands in
    the file; a .start file holds a name only. Under the kill switch rope_patch is imported, and touches nothing.
    """
