"""The README's matrix says of the installed release what its own metadata does."""

import importlib.metadata
import re

import pytest

from tests.ascend_stack.release import VERSION
from tests.package.test_releases_tested import matrix


@pytest.mark.skipif(not VERSION, reason="vllm-ascend is not installed here")
def test_the_readmes_matrix_says_what_this_release_asks_for() -> None:
    metadata = importlib.metadata.metadata("vllm-ascend")
    asks = str(metadata.get_payload() or metadata["Description"])
    cann, python, _ = matrix()[VERSION]
    assert re.search(rf"CANN [=>]= {re.escape(cann)}\b", asks), re.findall(r".*CANN [=>].*", asks)
    least, below = re.search(r"Python >= 3\.(\d+), < 3\.(\d+)", asks).groups()  # type: ignore[union-attr]
    assert python == f"3.{least} to 3.{int(below) - 1}"
