"""The plot of ``bench``: time against the number of tokens, a panel for each shape."""

import itertools
import math

from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.measurement import Row

COLOURS = {"native": "tab:orange", "patched": "tab:blue"}
LINES = {"device": "-", "host": "--"}


def draw(rows: list[Row], title: str, place: str) -> None:
    """Write the plot to ``place``, in the format of its file name extension.

    Raises:
        CannotAnswer: it cannot be written there.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.rope.name)]
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    size = 5 * columns, 3.6 * lines
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    labelled = {}
    for panel, axis in itertools.zip_longest(panels, axes.flat):
        if panel is None:
            axis.axis("off")
            continue
        for (name, colour), (what, line) in itertools.product(COLOURS.items(), LINES.items()):
            times = [(row.tokens, getattr(getattr(row, name), what, None)) for row in panel]
            points = [(tokens, time.median_us) for tokens, time in times if time]
            if points:
                (curve,) = axis.plot(*zip(*points, strict=True), line, color=colour, marker=".")
                labelled[f"{name}, {what}"] = curve
        axis.set(title=panel[0].rope.name, xlabel="tokens", ylabel="us a call", xscale="log", yscale="log")
    figure.suptitle(title)
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4)
    try:
        figure.savefig(place)
    except (OSError, ValueError) as error:
        raise CannotAnswer(f"the picture cannot be written: {error}") from error
    finally:
        pyplot.close(figure)
