"""A study's page: Markdown made of its JSON, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.errors import UserError
from engine.json_files import read_json
from se_backbones.files import write_atomically
from se_backbones.text import markdown_table
from studies.lab.gates import gate_table
from studies.lab.paper import paper_table, published_figures
from studies.lab.pictures import draw_gates, draw_rows
from studies.lab.words import comparison_lines, gate_lines, p_value, span

LABELS = {"top1_error": "top-1 error", "top5_error": "top-5 error", "AP": "AP", "AP50": "AP50"}
MARK = "†"  # beside what the note is of


def write_pages(results: Path, docs: Path, names: Iterable[str] | None = None) -> list[Path]:
    """Writes the page and the picture of each study whose JSON lies in a folder, and the list of all.

    Args:
        names: of the JSONs, and so of the pages, that are written; None: all. The list is of all in any case.

    Raises:
        UserError: a JSON cannot be read, or is none of a study's.
    """
    there = {path.stem: _read(path) for path in sorted(results.glob("*.json"))}
    written = []
    for name, content in there.items():
        if names is not None and name not in names:
            continue
        if len(content["rows"]) > 1:
            draw_rows(content, docs / f"{name}.png")
        if "gates" in content:
            draw_gates(content["gates"], docs / f"{name}_gates.png")
        written.append(write_atomically(docs / f"{name}.md", page(name, content)))
    return [*written, write_atomically(docs / "README.md", overview(there))]


def _read(path: Path) -> dict:
    content = read_json(path, "a study's result")
    if not isinstance(content, dict) or not {"study", "rows", "comparisons", "recipe"} <= content.keys():
        raise UserError(f"{path} is no study's result: move it out of the folder, or give another --json")
    return content


def page(name: str, content: Mapping) -> str:
    """The page of one study, beside its pictures ``name.png`` and ``name_gates.png``."""
    parts = [
        f"# {content['title']}",
        "<!-- made by tools/study.py from the study's JSON: edit neither this page nor its picture -->",
        f"Compared: {content['compares']}. {_published(content)}",
        _note(content),
        "## Figures",
        _figures_line(content),
        _table(_rows(content)),
        _beside(content),
        f"![the rows with their errors, and differences beside the paper's]({name}.png)"
        if len(content["rows"]) > 1
        else "",
    ]
    if content["missing"]:
        cells = ", ".join(f"{row} (seed {seed})" for _, row, seed in content["missing"])
        parts.append(f"**Not there yet, and in none of the figures:** {cells}.")
    parts += [text for name in content["beside"] for text in _others(name)]
    if content["comparisons"]:
        parts += ["## What the differences are worth", *comparison_lines(content), _table(_pairs(content))]
    if units := _hidden_units(content):
        parts += ["## Hidden units", "Of each gate, first to last, and SE's parameters together.", _table(units)]
    if "gates" in content:
        parts += [
            "## The gates",
            *gate_lines(content["gates"]),
            _table(gate_table(content["gates"])),
            f"![mean gates by class, and the spread within a class]({name}_gates.png)",
        ]
    parts += ["## What was run", *_ran(content)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _published(content: Mapping) -> str:
    if not content["tables"]:
        return "The paper has no table of it."
    told = []
    for name in content["tables"]:
        table = paper_table(name)
        memory = " **(from memory, looked up by nobody)**" if table.from_memory else ""
        told.append(f"{table.number} ({table.title}; source: {table.sources[0]}){memory}")
    return f"Published: {'; '.join(told)}."


def _note(content: Mapping) -> str:
    return f"> {MARK} {content['note']}" if content["note"] else ""


def _beside(content: Mapping) -> str:
    return f"{MARK} {content['note']}" if content["note"] else ""


def _figures_line(content: Mapping) -> str:
    kinds = "Errors in percent, lower is better" if content["errors"] else "AP in percent, higher is better"
    base = f"; the rows change {content['base']}"
    return (
        f"{kinds}{base}. ± is the standard deviation over seeds (n - 1), and stands where a row has two or more; "
        "± images is the binomial standard error of one evaluation on so many images, which says how far the figure "
        "would stray on others of their kind. The paper's figures are of its own networks and data."
        if content["errors"]
        else f"{kinds}{base}. ± is the standard deviation over seeds (n - 1), and stands where a row has two or more. "
        "The paper's figures are of its own training."
    )


def _rows(content: Mapping) -> list[tuple[str, ...]]:
    figures, mark = content["figures"], MARK if content["note"] else ""
    main = figures[0]
    by_name = {row["name"]: row for row in content["rows"]}
    references = {row["reference"] for row in content["rows"]}
    to = f"to {references.pop()}" if len(references) == 1 else "to its twin"
    head = ["row", "changes", "the paper's row", *(f"paper: {LABELS[name]}" for name in figures), "seeds"]
    head += [f"ours: {LABELS[name]}{mark}" for name in figures]
    head += ["± images"] * bool(content["errors"])
    head += [f"{to}, paper", f"{to}, ours{mark}"]
    head += ["parameters, paper", "ours"]
    head += ["multiply-adds, paper", "ours"] if content["errors"] else []
    lines = [tuple(head)]
    for row in content["rows"]:
        paper, reference = published_figures(row), by_name[row["reference"]]
        line = [row["name"], _changes(row)]
        line.append("; ".join(f"{paper_table(p['table']).number}: {p['model']}" for p in row["paper"]) or "-")
        line += [_number(paper.get(name)) for name in figures]
        line.append(str(len(row["runs"])) if row["runs"] else "-")
        line += [_mean(row, name) for name in figures]
        line += [_number(row.get("binomial_error", {}).get(main))] * bool(content["errors"])
        line += [_difference(published_figures(reference).get(main), paper.get(main))]
        line += [_difference(reference.get("mean", {}).get(main), row.get("mean", {}).get(main))]
        line += [_count(paper.get("parameters"), 1e6, "M"), _count(row.get("parameters"), 1e6, "M")]
        if content["errors"]:
            line += [_count(paper.get("multiply_adds"), 1e9, "G"), _count(row.get("multiply_adds"), 1e9, "G")]
        lines.append(tuple(line))
    return lines


def _changes(row: Mapping) -> str:
    parts = [f"weights cut by {row['surgery']}"] if "surgery" in row else []
    parts += [f"`{' '.join(row['changes'])}`"] * bool(row["changes"])
    return "; ".join(parts) or "none"


def _hidden_units(content: Mapping) -> list[tuple[str, ...]]:
    """What is left of each gate in the rows whose surgery dropped hidden units; empty where none did."""
    cuts = [(row["name"], row["cut"]) for row in content["rows"] if "gates" in (row.get("cut") or ())]
    if not cuts:
        return []
    first = cuts[0][1]
    lines = [("row", *(f"`{gate['name']}`" for gate in first["gates"]), "parameters")]
    lines.append(("before", *(str(gate["before"]) for gate in first["gates"]), f"{first['parameters_before']:,}"))
    return lines + [
        (name, *(str(gate["after"]) for gate in cut["gates"]), f"{cut['parameters']:,}") for name, cut in cuts
    ]


def _others(name: str) -> list[str]:
    """A table of the file as it is, with where it is from."""
    table = paper_table(name)
    columns = list(dict.fromkeys(key for row in table.rows.values() for key in row))
    lines = [("row", *columns)]
    lines += [(model, *(str(row.get(key, "-")) for key in columns)) for model, row in table.rows.items()]
    told = f"As published, {table.title} ({'; '.join(table.sources)}). {table.note}".rstrip()
    return [told, _table(lines)]


def _pairs(content: Mapping) -> list[tuple[str, ...]]:
    errors = content["errors"]
    head = ["first", "second", f"second - first, {LABELS[content['figures'][0]]}"]
    head += ["images for the first", "for the second"] if errors else ["95 % of draws of images"]
    head += ["p", "p after Holm"]
    lines = [(*head, "p by seeds", "verdict")]
    for pair in content["comparisons"]:
        line = [pair["first"], pair["second"], f"{pair['difference']:+.2f}"]
        if errors:
            votes = pair.get("votes", ("-", "-"))
            line += [str(votes[0]), str(votes[1])]
        else:
            line.append("{:+.2f} to {:+.2f}".format(*pair["interval"]) if "interval" in pair else "-")
        line += [_p(pair.get("p")), _p(pair.get("p_holm"))]
        lines.append((*line, _p(pair["seed_p"]), pair["verdict"]))
    return lines


def _ran(content: Mapping) -> list[str]:
    runs = [run for row in content["rows"] for run in row["runs"]]
    seconds = [run["seconds"] for run in runs if run["seconds"] is not None]
    hardware = list(dict.fromkeys(run["hardware"] for run in runs))
    settings = markdown_table(
        ("key", "value"), [(f"`{key}`", f"`{value}`") for key, value in content["recipe"].items()]
    )
    commands = "\n".join(dict.fromkeys([*(run["command"] for run in runs), content["command"]]))
    facts = [
        ("scale", content["scale"]),
        ("data", f"{content['dataset']}, {content['images']:,} images evaluated"),
        ("config", f"`{content['config']}`" + (f" with `{' '.join(content['words'])}`" if content["words"] else "")),
        ("runs", f"{len(runs)}, {span(sum(seconds))} of training together" if seconds else str(len(runs))),
        ("hardware", "; ".join(hardware)),
        ("versions", "; ".join(dict.fromkeys(_versions(run["versions"] or {}) for run in runs))),
        ("reported", f"{content['date']}, by {_versions(content['versions'])}"),
    ]
    return [
        "\n".join(f"- {name}: {text}" for name, text in facts),
        f"The settings of every run that are not as by default, but for what a row changes:\n\n{settings}",
        f"The commands of the runs and of this page:\n\n```\n{commands}\n```",
    ]


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"


def overview(there: Mapping[str, Mapping]) -> str:
    """The list of all studies that have a result, by the names of their pages."""
    lines = [("study", "attempts", "scale", "data", "runs", "in short")]
    for name, content in there.items():
        tables = ", ".join(dict.fromkeys(paper_table(name).number for name in content["tables"])) or "-"
        runs = sum(len(row["runs"]) for row in content["rows"])
        link = f"[{content['title']}]({name}.md)"
        data = content["dataset"] + (f" {MARK}" if content["note"] else "")
        lines.append((link, tables, content["scale"], data, str(runs), _short(content)))
    notes = dict.fromkeys(
        f"{MARK} {content['dataset']}: {content['note']}" for content in there.values() if content["note"]
    )
    parts = [
        "# Studies",
        "The paper's tables and figures, attempted by `tools/study.py NAME`, with the published figures beside our "
        "own. Each page, and this list, is made from the study's JSON in `results/studies/`.",
        _table(lines) if there else "No study has a result yet.",
        *notes,
    ]
    return "\n\n".join(parts) + "\n"


def _short(content: Mapping) -> str:
    if "gates" in content:
        gates = [gate for gate in content["gates"]["gates"] if gate["separation"] is not None]
        return "variance between classes over within: " + ", ".join(
            f"{gate['name']} {gate['separation']:.2f}" for gate in gates
        )
    pairs = content["comparisons"]
    apart = sum(pair["verdict"].startswith("difference") for pair in pairs)
    return f"{apart} of {len(pairs)} pairs of rows differ beyond noise" if pairs else "one row"


def _table(lines: Sequence[Sequence[str]]) -> str:
    heads, *rows = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return markdown_table(heads, rows)


def _mean(row: Mapping, name: str) -> str:
    if not row["runs"]:
        return "-"
    spread = row["deviation"][name]
    return f"{row['mean'][name]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _difference(reference: float | None, value: float | None) -> str:
    return "-" if reference is None or value is None else f"{value - reference:+.2f}"


def _count(value: float | None, unit: float, name: str) -> str:
    return "-" if value is None else f"{value / unit:.4g} {name}"


def _p(value: float | None) -> str:
    return "-" if value is None else p_value(value)
