"""Python 3.15 and newer call this at start, if `rope-patch install` wrote a ``.start`` file (PEP 829)."""


def start() -> None:
    """Does nothing: Python imported ``rope_patch`` to find this function, and the import switches rope_patch on.

    The .pth file, for older Pythons, tests the kill switch before it imports rope_patch. A .start file can only name a
    function, so here rope_patch is imported under the kill switch too, and then touches nothing.
    """
