"""What a caller tolerates, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from se_backbones.errors import WeightsError

PREPROCESSING = "preprocessing"
ARCHITECTURE = "architecture"
# What a detector has besides its network, to which a stage in a C4 detector's heads (roi_heads.res…) belongs.
DETECTOR_PARTS = ("backbone.fpn_*", "backbone.top_block.*", "proposal_generator.*", "roi_heads.[!r]*", "head.*")
_KINDS = ("missing", "unexpected", "wrong_shape", "fresh")


def detection_head_patterns(head_paths: Sequence[str] = ("fc",)) -> tuple[str, ...]:
    """What starts anew when a detector takes a backbone's weights: FPN, RPN, ROI heads; a classifier goes, which lies
    at ``head_paths`` (``Backbone.head_paths``).

    ``fresh:`` means: if the file has nothing at all under that pattern. A whole detector's file, then, must
    match in every name; these patterns excuse nothing in it.
    """
    return (
        "fresh:backbone.fpn_*",
        "fresh:backbone.top_block.*",
        "fresh:proposal_generator.*",
        "fresh:roi_heads.*",
        "fresh:head.*",  # RetinaNet's
        *(f"unexpected:{path}.*" for path in head_paths),
    )


class Allowed:
    """Patterns with the names of a file and a model held against them.

    Args:
        patterns: fnmatch patterns (``fc.*``). A pattern may be narrowed to one kind of difference:
            ``missing:PATTERN``, ``unexpected:PATTERN``, ``wrong_shape:PATTERN``, or ``fresh:PATTERN``
            (missing, and only if the file has no name at all that matches). Two words are no patterns:
            ``preprocessing`` and ``architecture`` turn those two checks' errors into warnings.
        in_file: every name of the file, under our names.
    """

    def __init__(self, patterns: Sequence[str], in_file: Iterable[str]):
        if isinstance(patterns, str):
            raise WeightsError(f"allow must be a list of patterns; got the text {patterns!r}")
        self.preprocessing = PREPROCESSING in patterns
        self.architecture = ARCHITECTURE in patterns
        in_file = list(in_file)
        self._patterns: list[tuple[str, str, str]] = []
        for text in patterns:
            kind, mark, pattern = text.partition(":")
            if not mark:
                kind, pattern = "", text
            elif kind not in _KINDS:
                raise WeightsError(f"allow: {text!r} begins with none of {', '.join(f'{k}:' for k in _KINDS)}")
            if kind == "fresh":
                if any(fnmatch.fnmatchcase(name, pattern) for name in in_file):
                    continue
                kind = "missing"
            self._patterns.append((kind, pattern, text))

    def by(self, kind: str, *names: str) -> str | None:
        """The first pattern that allows a difference of this kind under any of these names, or None."""
        for pattern_kind, pattern, text in self._patterns:
            if pattern_kind in ("", kind) and any(fnmatch.fnmatchcase(name, pattern) for name in names):
                return text
        return None
