"""Graph capture and replay, through torch-npu's own ``torch.npu.graph``."""

import pytest

from tests.host_cann import fixture
from tests.host_cann.fixture import needs_build

pytestmark = needs_build

PROLOGUE = """
from tests.host_cann.sample_kernels import add_one
x, y = torch.zeros(1000).npu(), torch.zeros(1000).npu()
add_one[(8,)](x, 1000, BLOCK=128)
torch.npu.synchronize()
graph = torch.npu.NPUGraph()
"""


def test_a_replay_repeats_launches_and_copies_on_the_same_addresses():
    done = fixture.run_script(
        PROLOGUE
        + """
with torch.npu.graph(graph):
    add_one[(8,)](x, 1000, BLOCK=128)
    add_one[(8,)](x, 1000, BLOCK=128)
    y.copy_(x)
    add_one[(8,)](y, 1000, BLOCK=128)
print(x.unique().tolist(), y.unique().tolist())
for _ in range(3):
    graph.replay()
print(x.unique().tolist(), y.unique().tolist())
x.zero_()
graph.replay()
print(x.unique().tolist(), y.unique().tolist())
"""
    )
    assert done.stdout.splitlines() == ["[1.0] [0.0]", "[7.0] [8.0]", "[2.0] [3.0]"], done.stderr


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("torch.npu.synchronize()", "a device synchronisation"),
        ("torch.npu.current_stream().synchronize()", "a stream synchronisation"),
        ("x.cpu()", "synchronisation"),
        ("x + 1", "a device synchronisation"),  # operators that the host computes are not capturable
        ("add_one[(8,)](y, 999, BLOCK=64)", "loading a kernel (a first compile)"),
    ],
)
def test_what_needs_an_answer_now_spoils_the_capture(statement, said):
    done = fixture.run_script(
        PROLOGUE
        + f"""
try:
    with torch.npu.graph(graph):
        add_one[(8,)](x, 1000, BLOCK=128)
        {statement}
    print("captured")
except RuntimeError:
    print("refused")
"""
    )
    assert done.stdout.endswith("refused\n"), done.stderr
    assert f"{said} during graph capture" in done.stderr
