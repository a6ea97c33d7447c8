"""YAML of unknown origin: bounded, without repeated keys, with numbers as people write them.

Knows text and errors; knows no config.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from vlv.errors import VLVError
from vlv.text import decode_text, read_start

# The parser is slow: so much takes about a second.
MAX_YAML_BYTES = 256_000
MAX_YAML_DEPTH = 64
# Values in all, those that aliases repeat counted every time.
MAX_YAML_VALUES = 50_000


def parse_yaml(data: str | bytes, where: str, error: type[VLVError]) -> Any:
    """A YAML value out of a file of unknown origin; `error` beginning with `where` if it is none.

    Plain scalars such as `1e3` are numbers, as in YAML 1.2. Refused as well: keys that come twice,
    more than MAX_YAML_BYTES, MAX_YAML_DEPTH levels or MAX_YAML_VALUES values, unknown tags.
    """
    if len(data) > MAX_YAML_BYTES:
        raise error(f"{where} has more than {MAX_YAML_BYTES // 1000} kB of YAML")
    try:
        text = decode_text(data) if isinstance(data, bytes) else data
    except ValueError as cause:
        raise error(f"{where} cannot be read: {cause}") from cause
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.YAMLError as cause:
        raise error(f"{where} is not valid YAML: {_fault(cause)}") from cause
    except RecursionError as cause:
        raise error(f"{where} is YAML of more than {MAX_YAML_DEPTH} levels") from cause
    except (ValueError, KeyError, AttributeError) as cause:
        # Dates that do not exist, numbers of thousands of digits, `!!bool maybe`.
        raise error(f"{where} holds a value that YAML does not know ({cause})") from cause


def read_yaml(path: Path, where: str, error: type[VLVError]) -> Any:
    """`parse_yaml` of a file, which is refused where it is no regular one or cannot be read."""
    return parse_yaml(read_start(path, MAX_YAML_BYTES + 1, where, error), where, error)


class _Loader(yaml.SafeLoader):
    """The safe loader, with YAML 1.2's floats, and keys that come once."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Before merged keys (`<<`) come in, which a key of the mapping itself may set anew."""
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key.value} comes twice, in lines {seen[name]} and {line}",
                )
            seen[name] = line
        super().flatten_mapping(node)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z"),
    list("-+.0123456789"),
)


def _check_size(root: yaml.Node) -> None:
    """Refuse what would grow beyond measure once its aliases are followed.

    Raises YAMLError.
    """
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in above:
            raise yaml.YAMLError(f"{_line(node)} repeats itself without end")
        if depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"{_line(node)} is more than {MAX_YAML_DEPTH} levels deep")
        if id(node) not in sizes:
            above.add(id(node))
            parts = 1 + sum(size(part, depth + 1) for part in _parts(node))
            above.remove(id(node))
            if parts > MAX_YAML_VALUES:
                raise yaml.YAMLError(f"it has more than {MAX_YAML_VALUES} values")
            sizes[id(node)] = parts
        return sizes[id(node)]

    size(root, 0)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong in a few words, with the line; the library's own message takes several."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"it holds the character {chr(error.character)!r}, which YAML does not allow"
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error)
    mark = error.problem_mark
    if mark is None:
        return str(error.problem)
    line = f"line {mark.line + 1}"
    if mark.buffer is not None and mark.buffer[mark.pointer : mark.pointer + 1] == "\t":
        return f"{line} has a tab where YAML wants spaces"
    return f"{line}: {error.problem}"
