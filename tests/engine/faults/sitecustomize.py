"""On PYTHONPATH, below rope_patch's own: a user's ``sitecustomize``, which here breaks rope_patch when told to.

So faults come about while an engine serves, and go away again: each lasts as long as the folder ROPE_PATCH_TEST_FAULTS
has a file of its name. ``fails``: no kernel starts. ``wrong``, whose content is a rank: that rank's kernels rotate by
half the position when they rotate in place. ``full``: the disk of the report folder is; a file can be made there, and
nothing written into it. ``readonly``: its file system is.

Every interpreter that starts leaves a file ``started-PID`` there; a forked process starts none.
"""

import dataclasses
import errno
import os
import sys

FOLDER = os.environ.get("ROPE_PATCH_TEST_FAULTS")


def _said(name):
    try:
        with open(os.path.join(FOLDER, name)) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _break_kernels(module):
    right = module.Launch.on

    def on(work, call, *outputs):
        if _said("fails") is not None:
            raise RuntimeError("ub overflow, requires 1600000 bits while 1572864 bits available!")
        if outputs[0] is None and _said("wrong") == str(sys.modules["torch.distributed"].get_rank()):
            call = dataclasses.replace(call, positions=call.positions // 2)
        return right(work, call, *outputs)

    module.Launch.on = on


class _FaultyOs:
    """Stands in for ``os`` in ``report_folder``."""

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, *arguments, **named):
        writing = flags & os.O_CREAT
        if writing and _said("readonly") is not None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        file = os.open(path, flags, *arguments, **named)
        if writing and _said("full") is not None:
            full = os.open("/dev/full", os.O_WRONLY)  # writes to it fail with ENOSPC
            os.dup2(full, file, inheritable=False)
            os.close(full)
        return file


def _break_folder(module):
    module.os = _FaultyOs()


BREAK = {"rope_patch.kernels.launch": _break_kernels, "rope_patch.reporting.report_folder": _break_folder}


if FOLDER:
    with open(os.path.join(FOLDER, f"started-{os.getpid()}"), "w"):
        pass
if FOLDER and "rope_patch.patching.import_watch" in sys.modules:
    from rope_patch.patching import import_watch

    for name, action in BREAK.items():
        import_watch.the_finder().on_import(name, action)
