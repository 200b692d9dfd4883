"""What a watcher has to survive, as much of it as a test may take; `python tests/support/soak_watch.py` does more."""

from __future__ import annotations

import pytest
from soak_watch import burst, can_be_nodes, kills, nodes


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    result = kills(tmp_path, 10)
    assert result["done once"] == result["stacks"] > 0
    assert result["in a stack"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not can_be_nodes(), reason="no machine names can be given here (unshare --uts)")
def test_two_nodes_one_of_which_dies(tmp_path):
    result = nodes(tmp_path, 100)
    assert result["node-a"] > 0
    assert result["node-b"] > 0


@pytest.mark.slow
def test_five_hundred_at_once(tmp_path):
    burst(tmp_path, 500)
