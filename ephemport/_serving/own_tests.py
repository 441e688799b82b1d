"""Whether the tests of this process are assisted. The pytest plugin chooses it; `inside` does it.

Apart from `inside`, because nearly all runs of pytest make no socket.
"""

_chosen = False


def choose(assist: bool) -> bool:
    """Choose whether servers in this process get the ports of tests. Returns the choice before."""
    global _chosen
    before, _chosen = _chosen, assist
    return before


def chosen() -> bool:
    """Whether servers in this process get the ports of tests."""
    return _chosen
