"""A picture in SVG that is readable on light and dark pages: shapes with classes, coloured by the reader's scheme.

It has a background of its own, since a page's scheme may be another than its reader's.
"""

from html import escape

FONTS = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif'
CURVES = ("ours", "theirs", "third", "fourth", "fifth", "sixth")
LIGHT = ("#ffffff", "#1f2328", "#6e7781", "#d0d7de", "#f6f8fa")
LIGHT_CURVES = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#9a6700", "#cf222e")
DARK = ("#0d1117", "#e6edf3", "#9198a1", "#3d444d", "#151b23")
DARK_CURVES = ("#4493f8", "#f0883e", "#3fb950", "#ab7df8", "#d29922", "#f85149")


def _coloured(colours: tuple[str, ...], curves: tuple[str, ...]) -> str:
    """Without CSS variables, which some viewers do not know."""
    paper, ink, faint, rule, box = colours
    rules = [
        f"text {{ fill: {ink}; }} .faint, .tip {{ fill: {faint}; }} .arrow {{ stroke: {faint}; }}",
        f".paper {{ fill: {paper}; }} .box {{ fill: {box}; stroke: {rule}; }} .rule {{ stroke: {rule}; }}",
    ]
    for name, colour in zip(CURVES, curves, strict=True):
        rules.append(f".curve.{name} {{ stroke: {colour}; }} .dot.{name}, text.{name} {{ fill: {colour}; }}")
    return "\n".join(rules)


STYLE = f"""
text {{ font: 13px {FONTS}; }} .small {{ font-size: 11px; }} .head {{ font-size: 14px; font-weight: 600; }}
.middle {{ text-anchor: middle; }} .end {{ text-anchor: end; }}
.curve {{ fill: none; stroke-width: 2; }} .dashed {{ stroke-dasharray: 5 4; }} .arrow {{ fill: none; }}
{_coloured(LIGHT, LIGHT_CURVES)}
@media (prefers-color-scheme: dark) {{
{_coloured(DARK, DARK_CURVES)}
}}
"""


class Picture:
    """Shapes in the order in which they are drawn. ``title`` and ``words`` are for those who cannot see it."""

    def __init__(self, width: int, height: int, title: str, words: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(words)}</desc>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="paper" width="{width}" height="{height}" rx="6"/>',
        ]

    def text(self, x: float, y: float, words: str, classes: str = "") -> None:
        self._parts.append(f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>')

    def rule(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self._parts.append(f'<path class="rule" d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}"/>')

    def curve(self, points: list[tuple[float, float]], classes: str) -> None:
        if not points:
            return
        self._parts.append(f'<path class="curve {classes}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')
        for x, y in points:
            self._parts.append(f'<circle class="dot {classes}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')

    def box(self, x: float, y: float, width: float, height: float, head: str, *lines: str) -> None:
        self._parts.append(f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>')
        top = y + height / 2 + 5 - 8 * len(lines)
        self.text(x + width / 2, top, head, "middle head")
        for number, line in enumerate(lines, 1):
            self.text(x + width / 2, top + 16 * number, line, "middle small faint")

    def arrow(self, *points: tuple[float, float]) -> None:
        way = "L".join(f"{x} {y}" for x, y in points)
        self._parts.append(f'<path class="arrow" d="M{way}" marker-end="url(#tip)"/>')

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])
