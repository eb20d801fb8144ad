"""The way of a call: from vLLM's rotary embedding to the kernel, and back to the original wherever there is a doubt."""

from scripts.pictures.svg import Picture

WIDTH, HEIGHT, BOX = 900, 340, 62


def draw() -> Picture:
    words = (
        "At import, rope_patch replaces functions of vLLM and vllm-ascend where the process is capable. A call goes "
    )
    words += (
        "from the target to the contract, and if its layout was served before, to a cached launch and the kernel. A "
    )
    words += "new layout first has its arguments looked at, its kernels checked against float64, and a plan made. From "
    words += "each step a doubt leads to the original."
    picture = Picture(WIDTH, HEIGHT, "The way of a call", words)
    picture.text(24, 30, "The way of a call", "head")
    top = 52
    picture.box(24, top, 150, BOX, "vLLM's layer", ("positions, q, k",))
    picture.box(214, top, 150, BOX, "target", ("what was replaced",))
    picture.box(404, top, 150, BOX, "contract", ("may a kernel serve it?",))
    picture.box(594, top, 120, BOX, "launch", ("kept by layout",))
    picture.box(754, top, 122, BOX, "kernel", ("one, for q and k",))
    for x, to in ((174, 214), (364, 404), (554, 594), (714, 754)):
        picture.arrow((x, top + BOX / 2), (to, top + BOX / 2))
    picture.text(560, top - 8, "a layout seen before", "small faint")
    new = 150
    picture.text(24, new + 27, "a new layout,", "small faint")
    picture.text(24, new + 43, "once", "small faint")
    picture.box(214, new, 150, BOX, "arguments", ("dtypes, strides, memory",))
    picture.box(404, new, 150, BOX, "check", ("against float64, once", "for a signature"))
    picture.box(594, new, 120, BOX, "plan", ("tiles that fit",))
    picture.arrow((479, top + BOX), (479, 132), (289, 132), (289, new))
    for x, to in ((364, 404), (554, 594)):
        picture.arrow((x, new + BOX / 2), (to, new + BOX / 2))
    picture.arrow((654, new), (654, top + BOX))
    original = 254
    picture.box(214, original, 500, BOX, "the original", ("vLLM's or vllm-ascend's own code; counted with its reason",))
    for x in (289, 479, 654):
        picture.arrow((x, new + BOX), (x, original))
    picture.arrow((190, top + BOX / 2), (190, original + BOX / 2), (214, original + BOX / 2))
    picture.text(24, original + 20, "switched off, not", "small faint")
    picture.text(24, original + 36, "capable, or in doubt:", "small faint")
    return picture
