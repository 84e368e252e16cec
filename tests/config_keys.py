"""The keys of a config that a table of wrong values has to think of."""

from fvcore.common.config import CfgNode


def keys(node, prefix=""):
    """(dotted key, value) of every leaf of a config."""
    for key, value in node.items():
        yield from keys(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [(prefix + key, value)]


def not_thought_of(cfg, wrong, any_value):
    """The keys of a config, switches aside, that are in neither table. The tables name no others."""
    known = dict(keys(cfg))
    assert set(wrong) | set(any_value) <= set(known)
    return {key for key, value in known.items() if not isinstance(value, bool)} - set(wrong) - set(any_value)
