"""What a family tells the loader about the files in which its weights come: layouts, and what tensors do not show."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from se_backbones.preprocessing import Preprocessing


@dataclass(frozen=True)
class Facts:
    """What is known about a network from outside its tensors, and how sure it is.

    ``stated``     the file, or the table of the release it was named from, says so. A contradiction stops the load.
    ``published``  the weights released in this layout are so. A contradiction stops the load too: a network fed with
                   the wrong colours or built with the stride elsewhere does not fail, it is only worse. Whoever knows
                   better writes ``preprocessing`` or ``architecture`` into ``allow``.
    ``usual``      most are so. A contradiction is a warning.

    Attributes:
        hyper: values of the family's settings that leave no mark on a tensor; None, or absent: unknown.
        preprocessing: how images come.
        basis: of the preprocessing: one of the three words above, or empty.
    """

    hyper: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    basis: str = ""


@dataclass(frozen=True)
class LookAlike:
    """Published weights with the names and shapes of one of a family's networks, which compute something else.

    Attributes:
        who: whose they are; ``what``: what they do otherwise. Both for messages.
        rows: the rows whose names and shapes they have.
        layouts: those in which they come.
        known_by: a regular expression, found in what its publishers call it: in a file's name, or in an entry as
            ``arch``.
        is_row: the row that they are of, with ``{}`` for the name of the one that they look like; empty: the table has
            none.
        preprocessing: how their images usually come, where it is otherwise than the layout says.
    """

    who: str
    what: str
    rows: tuple[str, ...]
    layouts: tuple[str, ...]
    known_by: str
    is_row: str = ""
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True)
class FileSays:
    """What a layout's ``facts`` may ask about a file.

    Attributes:
        shapes: under our names.
        author: the ``__author__`` of a Detectron2 .pkl, or of a named source.
        names: the file's own.
    """

    shapes: Mapping[str, tuple[int, ...]]
    author: str
    names: Collection[str]


@dataclass(frozen=True)
class NetworkShape:
    """A network as its tensors show it.

    Attributes:
        se_hidden: channels between the two excitation layers, for each stage that can carry gates; None where the
            stage has no SE.
        se_channels: channels of the gate, for the same stages.
        se_bias: whether the excitation layers have biases; None without SE.
        se_without: the sites without SE of the stages that have it, as in SEConfig.without.
        num_classes: outputs of the classifier; 0 where there is none.
        complete: every stage is there.
    """

    se_hidden: tuple[int | None, ...]
    se_channels: tuple[int | None, ...]
    se_bias: bool | None
    se_without: tuple[str, ...]
    num_classes: int
    complete: bool

    @property
    def has_se(self) -> bool:
        return any(self.se_hidden)

    @property
    def reduction(self) -> int | tuple[int, ...] | None:
        """The SEConfig.reduction that gives these widths: one integer, or one a stage; None without SE."""
        ratios = [c // h if h else None for c, h in zip(self.se_channels, self.se_hidden, strict=True)]
        known = [ratio for ratio in ratios if ratio]
        if not known:
            return None
        if len(set(known)) == 1:
            return known[0]
        return tuple(ratio or 16 for ratio in ratios)

    def se_text(self) -> str:
        """The SEConfig that the tensors show."""
        bias = "" if self.se_bias else ", bias=False"
        without = f", without={self.se_without}" if self.se_without else ""
        return f"SEConfig(reduction={self.reduction}{bias}{without})"


def unchanged(names: Collection[str]) -> dict[str, str]:
    """Names that are ours already."""
    return {name: name for name in names}


@dataclass(frozen=True)
class Layout:
    """One way in which a family's weights are named.

    Attributes:
        name: ``timm``, ``torchvision``, ….
        sign: a regular expression; the layout is recognised where it is found in any of a file's names.
        to_ours: the file's names -> each one's name in our network; names that are none of the layout's stay.
        from_ours: the way back, where files can be written in this layout (raises WeightsError where this network's
            cannot); None where they cannot.
        refuse: (row, its shape, the SE settings that the file states) -> why the layout's own code could not build the
            network, or an empty text.
        facts: what weights of this layout have in common.
        detector: the layout is of a whole detector.
        folded_statistics: normalisations may come with their statistics folded into weight and bias.
        tensor_to_ours, tensor_from_ours: (our name, tensor) -> the tensor in the other's form, where it differs.
        added: our tensors -> those that files of this layout have and our networks do not, by our names, for writing.
        roots: how all of its names begin; what begins otherwise lies beside the network.
    """

    name: str
    sign: str
    to_ours: Callable[[Collection[str]], dict[str, str]] = unchanged
    from_ours: Callable[[Collection[str]], dict[str, str]] | None = None
    refuse: Callable[[Any, NetworkShape, Mapping], str] = lambda row, shape, se: ""
    facts: Callable[[FileSays], Facts] = lambda file: Facts()
    detector: bool = False
    folded_statistics: bool = False
    tensor_to_ours: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor
    tensor_from_ours: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor
    added: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda ours: {}
    roots: tuple[str, ...] = ("",)

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file with these names, without wrappers, is of this layout."""
        sign = re.compile(self.sign)
        return any(sign.search(name) for name in names)
