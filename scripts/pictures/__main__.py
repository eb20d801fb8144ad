"""Write the pictures: ``python -m scripts.pictures``."""

from pathlib import Path

from scripts.pictures import call, peers, times

SCRIPTS = Path(__file__).parents[1]
PICTURES = {
    SCRIPTS / "pictures" / "times.svg": times.draw,
    SCRIPTS / "pictures" / "call.svg": call.draw,
    SCRIPTS / "bench_gpu" / "times.svg": peers.draw,
}

if __name__ == "__main__":
    for path, draw in PICTURES.items():
        path.write_text(str(draw()))
        print(path)
