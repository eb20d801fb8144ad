"""The cached launches, by layout.

Threads read and write them without a lock: two may work out the same launch, and one is kept. Forgetting is final all
the same: whoever finds that launches were forgotten while it wrote one down forgets them again.
"""

from rope_patch.serving.cached_launch import CachedLaunch

Layout = tuple[object, ...]
MAX_CACHED = 1024  # layouts in each of the two dictionaries: new token counts never end, and a step needs few layouts

_cached: dict[Layout, CachedLaunch] = {}
_older: dict[Layout, CachedLaunch] = {}  # what ``_cached`` held when it was last full; a launch that is used moves back
_generation = object()  # another one whenever launches were forgotten
# The last call's layout, which mostly is the next one's too: comparing two layouts is faster than hashing one. It is
# one tuple, so that other threads never see a layout with another one's launch.
last: tuple[Layout, CachedLaunch | None] = ((), None)


def look_up(layout: Layout) -> CachedLaunch | None:
    """The cached launch for that layout, or None. If there is one, it becomes the last call's."""
    global last
    generation = _generation
    cached = _cached.get(layout)
    if cached is not None:
        last = layout, cached
    else:
        cached = _older.get(layout)
        if cached is not None:
            _keep(layout, cached)
    if cached is not None and generation is not _generation:
        forget()
    return cached


def cache(layout: Layout, cached: CachedLaunch) -> None:
    """Cache a launch, which becomes the last call's."""
    generation = _generation
    _keep(layout, cached)
    if generation is not _generation:
        forget()


def _keep(layout: Layout, cached: CachedLaunch) -> None:
    global _cached, _older, last
    if len(_cached) >= MAX_CACHED:
        _cached, _older = {}, _cached
    last = layout, cached
    _cached[layout] = cached


def forget() -> None:
    """Forget all cached launches: the next call of each layout goes through Triton."""
    global _cached, _older, _generation, last
    _generation = object()  # first, so that no thread misses it that has written before what follows
    _cached, _older = {}, {}
    last = (), None
