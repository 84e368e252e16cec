"""What the engine is told of a task, of which it knows none: names, figures, files, commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ConfigFacts:
    """What the keys of a task's own say in a config, in words for people; empty where they do not tell.

    Attributes:
        method: what the backbone is a part of, if it is not all.
        training_data, evaluation_data: names of the data sets.
        image_size: in which the network sees the images.
    """

    method: str = ""
    training_data: str = ""
    evaluation_data: str = ""
    image_size: str = ""


@dataclass(frozen=True)
class TaskInfo:
    """A task, as the engine sees it.

    Attributes:
        name: in checkpoints and in result.json.
        title: for people.
        packages: whose log lines a run keeps.
        figures: the groups of figures that an evaluation may give, as result.json names them → for people. All figures
            are percentages, higher is better for the main ones.
        main_figures: those of a group that are worth a headline and a curve, the most important first.
        predictions_file: name of the file with an evaluation's answers, in a run's folder.
        train_command, predict_command: the scripts.
        figure_labels: figure → what it is called; its own name where it is not here.
        figure_meanings: figure → what it means, in a few words.
        no_figure: why a class may be without a figure, as in "no such thing in the data".
        listings: patterns of its files that list what is wrong with the data → what they tell of, a whole sentence.
        published_figures: those that are shown beside published ones, where result.json has some.
        unmarked: patterns of config keys of its own that leave no mark on a tensor, and with which a trained model
            computes something else where they change. (What every task has, the network's and the images', is compared
            without being named here.)
        read_config: (config, result.json), as dictionaries from which anything may be missing → what they say.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    figures: Mapping[str, str]
    main_figures: tuple[str, ...]
    predictions_file: str
    train_command: str
    predict_command: str
    figure_labels: Mapping[str, str] = field(default_factory=dict)
    figure_meanings: Mapping[str, str] = field(default_factory=dict)
    no_figure: str = "none"
    listings: Mapping[str, str] = field(default_factory=dict)
    published_figures: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()
    read_config: Callable[[dict, dict], ConfigFacts] = lambda config, result: ConfigFacts()

    @property
    def main_figure(self) -> str:
        """The one figure that says how good a model is: "group/figure"."""
        return f"{next(iter(self.figures))}/{self.main_figures[0]}"

    def label(self, figure: str) -> str:
        """What a figure is called."""
        return self.figure_labels.get(figure, figure)
