"""Write the pictures: ``python -m scripts.pictures``."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.pictures import call, peers, times
from scripts.pictures.svg import Picture

SCRIPTS = Path(__file__).parents[1]
PICTURES: dict[Path, Callable[[], Picture]] = {
    SCRIPTS / "pictures" / "times.svg": times.draw,
    SCRIPTS / "pictures" / "times.zh.svg": partial(times.draw, "zh"),
    SCRIPTS / "pictures" / "call.svg": call.draw,
    SCRIPTS / "pictures" / "call.zh.svg": partial(call.draw, "zh"),
    SCRIPTS / "bench_gpu" / "times.svg": peers.draw,
}

if __name__ == "__main__":
    for path, draw in PICTURES.items():
        path.write_text(str(draw()))
        print(path)
