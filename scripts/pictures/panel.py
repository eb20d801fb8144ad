"""One panel of a picture: curves over the number of tokens, which has a logarithmic scale."""

import math
from collections.abc import Mapping, Sequence

from scripts.pictures.svg import Picture

Curves = Mapping[str, Sequence[tuple[float, float]]]  # the curve's classes: (tokens, value)


class Panel:
    """Axes from ``low`` to ``high`` of each scale; values have a logarithmic scale too, or begin at 0."""

    def __init__(
        self,
        corner: tuple[float, float],
        size: tuple[float, float],
        tokens: tuple[float, float],
        values: tuple[float, float],
    ) -> None:
        self.x, self.y = corner
        self.width, self.height = size
        self.tokens, self.values = tokens, values

    def at(self, tokens: float, value: float) -> tuple[float, float]:
        across = _part(tokens, *self.tokens)
        up = _part(value, *self.values) if self.values[0] else value / self.values[1]
        return self.x + across * self.width, self.y + (1 - up) * self.height

    def draw(
        self, picture: Picture, curves: Curves, ticks: tuple[Sequence[int], Sequence[float]], labels: tuple[bool, bool]
    ) -> None:
        """``ticks``: of tokens and of values. ``labels``: whether these two have numbers."""
        for value in ticks[1]:
            _, y = self.at(self.tokens[0], value)
            picture.rule(self.x, y, self.x + self.width, y)
            if labels[1]:
                picture.text(self.x - 6, y + 4, f"{value:g}", "end small faint")
        for tokens in ticks[0]:
            x, _ = self.at(tokens, self.values[1])
            picture.rule(x, self.y + self.height, x, self.y + self.height + 4)
            if labels[0]:
                picture.text(x, self.y + self.height + 17, f"{tokens:,}", "middle small faint")
        for classes, points in curves.items():
            picture.curve([self.at(*point) for point in points], classes)


def _part(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)
