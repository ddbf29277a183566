"""Reading and writing config files: YAML 1.2, strict, with the line of every mistake.

Flags win over `--set`, which wins over the file, which wins over the recipe it builds on, which wins over the defaults.
All of them go through the same checks, and all mistakes are reported together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from toolkit.atomic_files import write_atomic
from toolkit.config import PretrainConfig
from toolkit.errors import Problem, ToolkitError
from toolkit.recipes import Command, find_config

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)
# Options that exclude each other: a layer that sets one of them drops the other from the layers below.
ALTERNATIVES = (("train.max_steps", "train.epochs"),)
# Options that may name a file or a folder, and what they may be instead.
PATHS = ("model", "adapter", "data.path", "data.validation", "corpus")
NO_PATHS = ("nano", "starter")

_CORE_SCHEMA = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
)


class _Loader(yaml.SafeLoader):
    """PyYAML with YAML 1.2's core schema: `1e-4` is a number (1.1 reads text), `on` and `no` are text."""

    yaml_implicit_resolvers: dict = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or 1.2 would take for something else."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out, never `&id001`."""
        return True


for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)


@dataclass
class _Layer:
    """Values by dotted path, and where the user wrote each."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def put(self, path: str, value: Any, place: str) -> None:
        self.values[path] = value
        self.places[path] = place


def load_config(
    kind: type[AnyConfig],
    path: Path | str | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    base: Path | None = None,
) -> AnyConfig:
    """Build a config from a recipe (`base`), a file (`path`), `key=value` texts and `flags` by dotted path.

    `path` may be the name of a recipe. A relative path in a file is looked for beside the file, then in the current
    folder. A flag that is None was not given. Raises ToolkitError with every mistake: where it is, what was expected.
    """
    problems: list[Problem] = []
    if path is not None:
        path = find_config(path, config_reader(kind))
    layers = [_read_file(file, kind, problems) for file in (base, path) if file is not None]
    layers.append(_read_overrides(overrides, kind, problems))
    flag_layer = _Layer()
    for key, value in (flags or {}).items():
        if value is not None:
            name = key.removesuffix(".path").rpartition(".")[2]
            flag_layer.put(key, value, f"--{name.replace('_', '-')} {value}")
    layers.append(flag_layer)
    merged = _merge(layers, problems)
    config = _validate(kind, merged, problems)
    if config is None or problems:
        raise ToolkitError.gather(problems)
    return config


def config_reader(kind: type[BaseModel]) -> Command:
    """Return the command that reads configs of a kind."""
    return "pretrain" if kind is PretrainConfig else "finetune"


def config_text(config: BaseModel) -> str:
    """Write a config as YAML that `load_config` reads back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def value_text(value: Any) -> str:
    """Write one option's value as YAML on one line."""
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def save_config(config: BaseModel, path: Path) -> None:
    """Write a config file atomically."""
    write_atomic(path, config_text(config))


def option_paths(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted path, field) of every option in a config model, sections themselves left out."""
    for name, info in model.model_fields.items():
        section = section_of(info)
        if section is None:
            yield prefix + name, info
        else:
            yield from option_paths(section, f"{prefix}{name}.")


def expected(info: FieldInfo) -> str:
    """Say in words what an option takes, e.g. `a whole number above 0`."""
    words = [_type_words(kind, info.metadata) for kind in _alternatives(info.annotation)]
    return " or ".join(dict.fromkeys(words))


def _read_file(path: Path, kind: type[BaseModel], problems: list[Problem]) -> _Layer:
    layer = _Layer()
    try:
        node = yaml.compose(path.read_text("utf-8"), Loader=_Loader)
    except OSError as error:
        raise ToolkitError(f"cannot read the config: {error.strerror or error}", where=path) from error
    except UnicodeDecodeError as error:
        raise ToolkitError("the config is not UTF-8 text", where=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ToolkitError(f"invalid YAML: {getattr(error, 'problem', None) or error}", where=place) from error
    if node is None:
        return layer
    if not isinstance(node, yaml.MappingNode):
        raise ToolkitError("expected `key: value` lines", where=f"{path}:{node.start_mark.line + 1}")
    _read_mapping(node, kind, "", path, layer, problems)
    _find_beside(path, layer)
    return layer


def _find_beside(path: Path, layer: _Layer) -> None:
    # A run's own config names things as they were named from where the run was started; what the run wrote beside it
    # (`model`, `adapter`) is not meant.
    folder = path.parent
    if folder == Path() or (folder / "manifest.json").is_file():
        return
    for option in PATHS:
        value = layer.values.get(option)
        if isinstance(value, str) and value and value not in NO_PATHS and (folder / value).exists():
            layer.values[option] = str(folder / value)


def _read_mapping(
    node: yaml.MappingNode, kind: type[BaseModel], prefix: str, path: Path, layer: _Layer, problems: list[Problem]
) -> None:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        place = f"{path}:{line}"
        key = str(getattr(key_node, "value", "?"))
        if key in seen:
            problems.append(Problem(f"{prefix}{key} is given twice (first on line {seen[key]})", place))
            continue
        seen[key] = line
        info = kind.model_fields.get(key)
        section = section_of(info) if info else None
        if info is None:
            problems.append(_unknown(f"{prefix}{key}", kind, prefix, place))
        elif section is None:
            layer.put(f"{prefix}{key}", _construct(value_node), place)
        elif isinstance(value_node, yaml.MappingNode):
            _read_mapping(value_node, section, f"{prefix}{key}.", path, layer, problems)
        elif _construct(value_node) is not None:  # `train:` with nothing below it is an empty section.
            problems.append(_section_expected(f"{prefix}{key}", section, place))


def _construct(node: yaml.Node) -> Any:
    # A fresh loader for each value: the constructor wants one, but needs no stream.
    loader = _Loader("")
    try:
        if node.tag.endswith(":int"):
            return int(node.value, 0) if re.match("0[xo]", node.value) else int(node.value)
        if node.tag.endswith(":float") and "." not in node.value:
            return float(node.value)
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError:
        return node.value
    finally:
        loader.dispose()


def _read_overrides(overrides: Sequence[str], kind: type[BaseModel], problems: list[Problem]) -> _Layer:
    layer = _Layer()
    options = dict(option_paths(kind))
    for text in overrides:
        place = f"--set {text}"
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            problems.append(Problem("expected key=value", place, "For example: --set train.max_steps=200"))
        elif key in options:
            layer.put(key, _override_value(value.strip(), options[key]), place)
        elif any(path.startswith(f"{key}.") for path in options):
            section = next(path for path in options if path.startswith(f"{key}."))
            problems.append(Problem(f"{key} is a section: set a key in it, such as {section}", place))
        else:
            problems.append(_unknown(key, kind, "", place))
    return layer


def _override_value(text: str, info: FieldInfo) -> Any:
    kinds = _alternatives(info.annotation)
    try:
        node = yaml.compose(text, Loader=_Loader)
        value = _construct(node) if node is not None else None
    except yaml.YAMLError:
        value = text
    # What may be text is text, unless it is meant to be something else that the option takes as well.
    if _takes(kinds, str) and not (value is None and _takes(kinds, NoneType)):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if _takes(kinds, float) and is_number else text
    return value


def _merge(layers: Sequence[_Layer], problems: list[Problem]) -> _Layer:
    merged = _Layer()
    for layer in layers:
        for pair in ALTERNATIVES:
            given = [path for path in pair if layer.values.get(path) is not None]
            if len(given) == len(pair):
                problems.append(Problem(f"give {' or '.join(pair)}, not both", layer.places[pair[-1]]))
            elif given:
                for path in pair:
                    merged.values.pop(path, None)
        for path, value in layer.values.items():
            merged.put(path, value, layer.places[path])
    return merged


def _validate(kind: type[AnyConfig], layer: _Layer, problems: list[Problem]) -> AnyConfig | None:
    tree: dict[str, Any] = {}
    for path, value in layer.values.items():
        *sections, name = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        options = dict(option_paths(kind))
        wrong = dict.fromkeys(_option_of(item["loc"], options) for item in error.errors())
        for path in wrong:
            what = f"{path} is {layer.values.get(path)!r}; expected {expected(options[path])}"
            problems.append(Problem(what, layer.places.get(path, "")))
        return None


def _option_of(location: Sequence[int | str], options: Mapping[str, FieldInfo]) -> str:
    # pydantic's location goes on behind the option with the alternatives of a union and the places in a list.
    for end in range(len(location), 0, -1):
        path = ".".join(str(part) for part in location[:end])
        if path in options:
            return path
    raise ValueError(f"no option at {location}")


def _unknown(path: str, kind: type[BaseModel], prefix: str, place: str) -> Problem:
    known = [prefix + option for option, _ in option_paths(kind)]
    by_name = {option.rpartition(".")[2]: option for option in reversed(known)}
    near = get_close_matches(path, known, n=1, cutoff=0.6)
    name = get_close_matches(path.rpartition(".")[2], by_name, n=1, cutoff=0.6)
    if name and (not near or path.rpartition(".")[2] in by_name):
        near = [by_name[name[0]]]
    level = [prefix + option for option in dict.fromkeys(option[len(prefix) :].partition(".")[0] for option in known)]
    hint = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(level)}"
    return Problem(f"unknown key {path}", place, hint)


def _section_expected(path: str, section: type[BaseModel], place: str) -> Problem:
    return Problem(f"{path} is a section: expected keys below it, such as {next(iter(section.model_fields))}", place)


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a section, or None for an option."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _alternatives(part))
    return (annotation,)


def _takes(kinds: Sequence[Any], kind: type) -> bool:
    return any(item is kind or (get_origin(item) is Annotated and get_args(item)[0] is kind) for item in kinds)


def _type_words(kind: Any, constraints: Sequence[Any]) -> str:
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        return _type_words(inner, [item for note in notes for item in getattr(note, "metadata", [note])])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of text"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    words = names.get(kind, str(kind))
    if kind in (int, float):
        signs = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
        for sign, word in signs.items():
            bound = next((getattr(item, sign) for item in constraints if hasattr(item, sign)), None)
            words += "" if bound is None else f" {word} {bound:g}"
    return words
