"""The way of a call: from vLLM's rotary embedding to the kernel, and back to the original wherever there is a doubt."""

from scripts.pictures import words
from scripts.pictures.svg import Picture

WIDTH, HEIGHT, BOX = 900, 340, 62


def draw(language: str = "en") -> Picture:
    say = words.of("call", language)
    picture = Picture(WIDTH, HEIGHT, say["title"], say["description"])
    picture.text(24, 30, say["title"], "head")
    top = 52
    picture.box(24, top, 150, BOX, *say["layer"])
    picture.box(214, top, 150, BOX, *say["target"])
    picture.box(404, top, 150, BOX, *say["contract"])
    picture.box(594, top, 120, BOX, *say["launch"])
    picture.box(754, top, 122, BOX, *say["kernel"])
    for x, to in ((174, 214), (364, 404), (554, 594), (714, 754)):
        picture.arrow((x, top + BOX / 2), (to, top + BOX / 2))
    picture.text(560, top - 8, say["seen"], "small faint")
    new = 150
    picture.text(24, new + 27, say["new"][0], "small faint")
    picture.text(24, new + 43, say["new"][1], "small faint")
    picture.box(214, new, 150, BOX, *say["arguments"])
    picture.box(404, new, 150, BOX, *say["check"])
    picture.box(594, new, 120, BOX, *say["plan"])
    picture.arrow((479, top + BOX), (479, 132), (289, 132), (289, new))
    for x, to in ((364, 404), (554, 594)):
        picture.arrow((x, new + BOX / 2), (to, new + BOX / 2))
    picture.arrow((654, new), (654, top + BOX))
    original = 254
    picture.box(214, original, 500, BOX, *say["original"])
    for x in (289, 479, 654):
        picture.arrow((x, new + BOX), (x, original))
    picture.arrow((190, top + BOX / 2), (190, original + BOX / 2), (214, original + BOX / 2))
    picture.text(24, original + 20, say["doubt"][0], "small faint")
    picture.text(24, original + 36, say["doubt"][1], "small faint")
    return picture
