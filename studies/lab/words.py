"""What a study's figures say, in sentences that claim no more than they do."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from studies.lab.gates import HIGH


def comparison_lines(content: Mapping) -> list[str]:
    """How the pairs were compared, and what comes of it: first for each row against the reference, then in sum."""
    pairs, references = content["comparisons"], {row["name"]: row["reference"] for row in content["rows"]}
    against = [
        (pair, reference)
        for pair in pairs
        for reference in (pair["first"], pair["second"])
        if reference in (references[pair["first"]], references[pair["second"]])
    ]
    lines = [f"- {sentence(content, pair, reference)}" for pair, reference in against]
    return [_method(content), "\n".join(lines), _sum(content)] if lines else [_method(content), _sum(content)]


def _method(content: Mapping) -> str:
    level, pairs = content["level"], len(content["comparisons"])
    seeds = (
        "The p by seeds holds the difference of the means against how much runs of one row scatter with their seeds "
        "(Student's t, that scatter taken to be one for all rows that begin with random weights, and one for all that "
        "train on, from those that have two seeds or more; of one with the other Welch's test); it is not corrected "
        "for the number of pairs, for it only takes claims back."
        if any(pair["seed_p"] is not None for pair in content["comparisons"])
        else "No row has two seeds, so that nothing is known of how much another seed would change."
    )
    corrected = f"p after Holm is corrected for the {pairs} comparison{'s' * (pairs != 1)}. {seeds}"
    called = f"A difference is called one where every p that there is, after its correction, is below {level}."
    if not content["errors"]:
        return (
            "The pairs of rows, each on the same images and on the seeds that both have: as many images as there are "
            "are drawn with replacement, and the difference of AP is taken on these, a thousand times. p is two-sided, "
            "by the share of draws in which the difference has the other sign (the paired bootstrap; see "
            f"detection/coco_ap/bootstrap.py). {corrected} {called}"
        )
    return (
        f"The pairs of rows, each on the same images and on the seeds that both have: an "
        "image votes for the row that has it right with more of these seeds, and abstains where they are as many; p is "
        "the exact, two-sided probability of votes at least as uneven where either is as likely. With one seed it is "
        f"the exact McNemar test. (Tables of several seeds are not summed: they show the same images.) {corrected} "
        f"{called}"
    )


def sentence(content: Mapping, pair: Mapping, reference: str) -> str:
    """One pair in words, seen from the reference."""
    swap = pair["first"] == reference
    row = pair["second"] if swap else pair["first"]
    difference = pair["difference"] if swap else -pair["difference"]
    figure = "top-1 error" if content["errors"] else "AP"
    apart = f"{abs(difference):.2f} points of {figure}"
    worse = (difference > 0) == content["errors"]
    way = "equal to" if difference == 0 else "worse than" if worse else "better than"
    how = f"{row} is {apart} {way} {reference}" if difference else f"{row} and {reference} have the same {figure}"
    return f"{how}: {_weight(pair)}."


def _weight(pair: Mapping) -> str:
    verdict = pair["verdict"]
    if verdict == "noise of images":
        return f"within noise, other images could turn it round (p {_p(pair['p_holm'])} after Holm)"
    if verdict == "noise of seeds":
        return f"within noise, other seeds could turn it round (p {_p(pair['seed_p'])} by seeds)"
    if verdict == "noise, votes against means":
        return "within noise, for more images are for the other one"
    if verdict == "difference":
        return f"beyond the noise of images (p {_p(pair['p_holm'])} after Holm) and of seeds (p {_p(pair['seed_p'])})"
    if verdict == "difference on one seed":
        return (
            f"beyond the noise of images (p {_p(pair['p_holm'])} after Holm); what other seeds would give is not known"
        )
    if pair["seed_p"] is not None:
        return f"more than seeds scatter (p {_p(pair['seed_p'])} by seeds), and not tested over images"
    return "not tested"


def _sum(content: Mapping) -> str:
    pairs = content["comparisons"]
    apart = [pair for pair in pairs if pair["verdict"].startswith("difference")]
    within = sum(pair["verdict"].startswith("noise") for pair in pairs)
    rest = len(pairs) - len(apart) - within
    return f"Pairs that differ beyond noise: {len(apart)} of {len(pairs)}; within noise: {within}" + (
        f"; not tested over images: {rest}." if rest else "."
    )


def gate_lines(gates: Mapping) -> list[str]:
    """How the gates were looked at, and what the numbers say of the paper's three observations."""
    each = gates["images"] // gates["all_classes"]
    lines = [
        f"Over {gates['images']:,} validation images, {each} of each of {gates['all_classes']:,} classes (the first of "
        "each, or all where there are fewer). Between over within is the variance of the classes' mean gates over the "
        f"mean of the variances within the classes, both summed over all channels: near {1 / max(each, 1):.2f}, one "
        "over the images of a class, where classes do not differ. The shares are of all gates of all images. Drawn are "
        "channels taken evenly, and the mean over all classes."
    ]
    told = [gate for gate in gates["gates"] if gate["separation"] is not None]
    if len(told) > 1:
        least, most = (chosen(told, key=lambda gate: gate["separation"]) for chosen in (min, max))
        nearest = max(told, key=lambda gate: gate["above"])
        lines.append(
            f"Classes are told apart least by {least['name']} ({least['separation']:.3f}) and most by {most['name']} "
            f"({most['separation']:.3f}); {nearest['name']} has most gates above {HIGH}, "
            f"{100 * nearest['above']:.1f} %. "
            "The paper reports, of SE-ResNet-50 on ImageNet: early gates nearly equal over classes (SE_2_3), later "
            "ones specific to the class (SE_4_6, SE_5_1), SE_5_2 close to saturation, and SE_5_3 equal over classes "
            "but for its scale (section 7.2)."
        )
    return lines


def p_value(value: float) -> str:
    """ "0.0123", "< 0.0001" """
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def span(seconds: float) -> str:
    """ "1:02:03" """
    return str(datetime.timedelta(seconds=round(seconds)))


def _p(value: float) -> str:
    written = p_value(value)
    return written if written.startswith("<") else f"= {written}"
