"""The part of ComfyUI's documented V3 interface that the nodes use, to run them without ComfyUI.

It refuses what ComfyUI refuses: inputs and outputs without unique ids, and arguments of `execute`
that are no inputs. See docs/integrations/comfyui.md for the runs in ComfyUI itself.
"""

import inspect
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Slot:
    kind: str
    id: str | None
    settings: dict[str, Any]


def comfy_type(kind: str) -> Any:
    def make(id: str | None = None, **settings: Any) -> Slot:
        return Slot(kind, id, settings)

    return SimpleNamespace(Input=make, Output=make)


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list[Slot] = field(default_factory=list)
    outputs: list[Slot] = field(default_factory=list)
    is_output_node: bool = False
    not_idempotent: bool = False


class NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args


class ComfyNode:
    @classmethod
    def call(cls, **inputs: Any) -> tuple[Any, ...]:
        """Run the node as ComfyUI does: by the ids of its inputs, defaults filled in."""
        schema = cls.define_schema()  # type: ignore[attr-defined]
        ids = [slot.id for slot in schema.inputs]
        assert len(set(ids)) == len(ids)
        for slot in schema.inputs:
            if slot.id not in inputs:
                inputs[slot.id or ""] = slot.settings["default"]
            if slot.kind == "COMBO":
                assert inputs[slot.id or ""] in slot.settings["options"]
        inspect.signature(cls.execute).bind(**inputs)  # type: ignore[attr-defined]
        made = cls.execute(**{one: inputs[one or ""] for one in ids})  # type: ignore[attr-defined]
        assert isinstance(made, NodeOutput) and len(made.args) == len(schema.outputs)
        return made.args


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]: ...


class Interrupted(Exception):
    """What Cancel raises inside a node."""


class Running:
    """A node that runs: what its progress bars have counted, and whether Cancel was pressed."""

    counted: list[int] = []
    cancelled = False

    @classmethod
    def throw_if_cancelled(cls) -> None:
        if cls.cancelled:
            cls.cancelled = False
            raise Interrupted


class ProgressBar:
    def __init__(self, total: int) -> None:
        self.at = len(Running.counted)
        Running.counted.append(0)
        self.total = total

    def update(self, value: int) -> None:
        Running.throw_if_cancelled()
        Running.counted[self.at] += value
        assert Running.counted[self.at] <= self.total


def install() -> None:
    """Make the imports of `comfy_api.latest` and of `comfy` work in this process."""
    kinds = {"Image": "IMAGE", "String": "STRING", "Int": "INT", "Float": "FLOAT"}
    kinds |= {"Boolean": "BOOLEAN", "Combo": "COMBO"}
    io = SimpleNamespace(
        Schema=Schema,
        NodeOutput=NodeOutput,
        ComfyNode=ComfyNode,
        Custom=comfy_type,
        Input=Slot,
        **{name: comfy_type(kind) for name, kind in kinds.items()},
    )
    package, latest = ModuleType("comfy_api"), ModuleType("comfy_api.latest")
    latest.io, latest.ComfyExtension = io, ComfyExtension  # type: ignore[attr-defined]
    comfy, utils = ModuleType("comfy"), ModuleType("comfy.utils")
    management = ModuleType("comfy.model_management")
    utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    management.throw_exception_if_processing_interrupted = (  # type: ignore[attr-defined]
        Running.throw_if_cancelled
    )
    modules = (package, latest, comfy, utils, management)
    sys.modules.update({one.__name__: one for one in modules})
