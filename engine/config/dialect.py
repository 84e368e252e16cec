"""The one dialect of configuration: YAML with ``_BASE_``, and ``KEY VALUE`` pairs behind the command line's flags."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from engine.config.automatic import KEY, is_automatic, over
from engine.config.shipped import find_config
from engine.errors import UserError


def load_config(
    defaults: CfgNode,
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    absent: Mapping[str, object] = MappingProxyType({}),
) -> CfgNode:
    """The defaults, changed by a file and then by overrides.

    Args:
        defaults: every key that exists, with a value of the type it has.
        path: a YAML file. Its ``_BASE_`` (relative to it) is read first. Only plain YAML: a tag is an error.
        absent: keys that another version of a library has, with their defaults: they may stand in the file with
            just that value.
        overrides: ``["SOLVER.BASE_LR", "0.01", …]``, values as Python literals, else strings.

    Returns:
        a new, frozen CfgNode.

    Raises:
        UserError: the file cannot be read or parsed, holds a tag, names a key that does not exist (the nearest one
            is named) or gives a value of another type. All such keys are listed at once.
    """
    cfg = defaults.clone()
    cfg.defrost()
    if path is not None:
        _merge(cfg, defaults, read_yaml(path), str(path), absent)
    _check_pairs(overrides, _all_keys(cfg))
    changes: dict = {}
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        node = changes
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"the command line: {key} is given, and {parent} as a value of its own too")
        node[last] = over(_literal(text), node.get(last))
    _merge(cfg, defaults, changes, where="the command line")
    cfg.freeze()
    return cfg


def _check_pairs(overrides: Sequence[str], known: Sequence[str]) -> None:
    for word in overrides[::2]:
        if "=" in word:
            key, _, value = word.partition("=")
            raise UserError(f"the command line: {word}: write a space for the =, as in {key} {value or 'VALUE'}")
    if len(overrides) % 2:
        alone = next((word for word in overrides[::2] if word not in known), overrides[-1])
        raise UserError(
            f"the command line: keys and values come in pairs, KEY VALUE, and {alone} is left alone; got "
            f"{' '.join(overrides)!r}"
        )


def config_from_text(
    defaults: CfgNode, text: str, where: str, absent: Mapping[str, object] = MappingProxyType({})
) -> CfgNode:
    """A whole config kept as YAML text, in a checkpoint say. Raises as ``load_config``."""
    cfg = defaults.clone()
    cfg.defrost()
    _merge(cfg, defaults, _parse(text, where), where, absent)
    cfg.freeze()
    return cfg


def config_from_checkpoint(
    defaults: CfgNode,
    checkpoint: Mapping,
    task: str,
    called: str,
    absent: Mapping[str, object] = MappingProxyType({}),
) -> CfgNode:
    """The config a checkpoint was trained with.

    Args:
        task: what the checkpoint must be of; ``called``: its name for people.

    Raises:
        UserError: the checkpoint is of another task, or as ``load_config``.
    """
    if checkpoint.get("task") != task:
        raise UserError(
            f"this is a checkpoint of the task {checkpoint.get('task')!r}, not of {called}: give it as "
            "MODEL.WEIGHTS of a training instead"
        )
    return config_from_text(defaults, checkpoint["config"], "its config", absent)


def read_yaml(path: str | Path, _seen: tuple[Path, ...] = ()) -> dict:
    """A YAML file with its ``_BASE_`` merged in, as nested dicts. Runs no tags.

    ``configs/NAME`` that is not below the current folder is the config of that name that comes with this project.

    Raises:
        UserError: no such file, not YAML, a tag in it, not a mapping, or bases in a circle.
    """
    path = find_config(path)
    resolved = path.resolve()
    if resolved in _seen:
        raise UserError(f"{path}: its {BASE_KEY} leads back to itself ({' -> '.join(map(str, _seen))})")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    values = _parse(text, str(path))
    base = values.pop(BASE_KEY, None)
    if base is None:
        return values
    if not isinstance(base, str) or not base:
        raise UserError(f"{path}: {BASE_KEY} must be the path of a config, relative to this one; got {base!r}")
    return _overlay(read_yaml(path.parent / Path(base).expanduser(), (*_seen, resolved)), values)


def _parse(text: str, where: str) -> dict:
    try:
        values = yaml.load(text, Loader=_PlainLoader)
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"{where}: {error.problem} at {_place(error)}; a config holds plain values, each key once, and no YAML tags"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {getattr(error, 'problem', error)} at {_place(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{where}: a config is a mapping of keys to values, not a {type(values).__name__}")
    return values


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which runs no tags; a key given twice is an error, where PyYAML drops the first."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown place"


def _overlay(base: dict, values: dict) -> dict:
    merged = dict(base)
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = _overlay(merged[key], value)
        merged[key] = over(value, merged.get(key))
    return merged


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except Exception:  # no literal, whatever else it may be
        return {"true": True, "false": False}.get(text.lower(), text)


def _merge(
    cfg: CfgNode, defaults: CfgNode, values: dict, where: str, absent: Mapping[str, object] = MappingProxyType({})
) -> None:
    problems: list[str] = []
    _merge_node(cfg, defaults, values, "", problems, _all_keys(cfg), absent)
    if problems:
        raise UserError(f"{where}:\n  " + "\n  ".join(problems))


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        keys.append(prefix + key)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{key}.")
    return keys


def _merge_node(
    cfg: CfgNode,
    defaults: CfgNode,
    values: dict,
    prefix: str,
    problems: list[str],
    known: list[str],
    absent: Mapping[str, object],
) -> None:
    """Args: defaults: of the same keys, whose types count: a list that is empty there may hold anything, whatever it
    holds in ``cfg`` by now."""
    for key, value in values.items():
        full = f"{prefix}{key}"
        if key not in cfg and full in absent and absent[full] == value:
            continue
        if key not in cfg:
            problems.append(f"there is no key {full}{_suggest(full, known)}")
        elif isinstance(cfg[key], CfgNode):
            if isinstance(value, dict):
                _merge_node(cfg[key], defaults[key], value, f"{full}.", problems, known, absent)
            else:
                problems.append(f"{full} is a group of keys ({', '.join(cfg[key])}), not a value")
        else:
            try:
                if full == KEY:
                    cfg[key] = over(value, cfg[key]) if is_automatic(value) else _coerce(value, 0)
                else:
                    cfg[key] = _coerce(value, defaults[key])
            except TypeError:
                problems.append(f"{full} wants {_kind(cfg[key])} (as in {cfg[key]!r}); got {value!r}, {_kind(value)}")


def _suggest(full: str, known: list[str]) -> str:
    near = difflib.get_close_matches(full, known, n=1, cutoff=0.6)
    if not near:  # the right name in the wrong group
        last = full.rsplit(".", 1)[-1]
        by_last = {key.rsplit(".", 1)[-1]: key for key in known}
        near = [by_last[name] for name in difflib.get_close_matches(last, by_last, n=1, cutoff=0.6)]
    return f"; the nearest is {near[0]}" if near else ""


def _kind(value) -> str:
    names = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a text",
        dict: "a group of keys",
    }
    return "a list" if isinstance(value, list | tuple) else names.get(type(value), type(value).__name__)


def _coerce(value, default):
    """The value in the type of the default, where nothing is lost by it; else TypeError."""
    if default is None:
        return value
    if value is None and isinstance(default, str):
        return ""
    if isinstance(default, list | tuple):
        if isinstance(value, dict):
            raise TypeError
        items = list(value) if isinstance(value, list | tuple) else [value]  # one value stands for a list of one
        if default and not isinstance(default[0], list | tuple | dict):
            items = [_item(item, default[0]) for item in items]
        return type(default)(items)
    if isinstance(default, str) and type(value) is int:
        return str(value)  # a folder's name, or 256 for "256"; a 1.50 or 1e3 would come back written otherwise
    if isinstance(default, float) and type(value) in (int, str):
        try:
            return float(value)  # YAML reads 1e-4, without a dot, as text
        except ValueError as error:
            raise TypeError from error
    if type(value) is not type(default):
        raise TypeError
    return value


def _item(value, default):
    """One of a list: a value, or a name and a value."""
    if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str):
        return [value[0], _coerce(value[1], default)]
    return _coerce(value, default)
