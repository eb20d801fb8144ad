"""Where pytest-xdist's workers keep what they share: in the folder of this session, which pytest deletes later."""

import os

import pytest

from tests.ascend_stack import processes


@pytest.fixture(scope="session", autouse=True)
def shared_answers(tmp_path_factory: pytest.TempPathFactory) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        processes.shared = tmp_path_factory.getbasetemp().parent
