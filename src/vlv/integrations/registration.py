"""Makes other libraries know VLV's classes as soon as those libraries are imported.

`import vlv` imports no other library. It leaves a finder in `sys.meta_path` that finds nothing
itself: when the module of transformers that holds a registry has been imported, VLV's class is
added to it. A registry that is there already gets the class at once.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto"


def _add_config(auto: Any) -> None:
    from vlv.integrations.transformers.configuration import VLVPreTrainedConfig

    auto.AutoConfig.register("vlv", VLVPreTrainedConfig, exist_ok=True)


def _add_model(auto: Any) -> None:
    from vlv.integrations.transformers.configuration import VLVPreTrainedConfig
    from vlv.integrations.transformers.modeling import VLVForConditionalGeneration

    for registry in (auto.AutoModel, auto.AutoModelForImageTextToText):
        registry.register(VLVPreTrainedConfig, VLVForConditionalGeneration, exist_ok=True)
    # `pipeline` reads the names of the classes that it supports from here.
    auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["vlv"] = VLVForConditionalGeneration.__name__


def _add_processor(auto: Any) -> None:
    from vlv.integrations.transformers.configuration import VLVPreTrainedConfig
    from vlv.integrations.transformers.processing import VLVProcessor

    auto.AutoProcessor.register(VLVPreTrainedConfig, VLVProcessor, exist_ok=True)


REGISTRIES: dict[str, Callable[[Any], None]] = {
    f"{_AUTO}.configuration_auto": _add_config,
    f"{_AUTO}.modeling_auto": _add_model,
    f"{_AUTO}.processing_auto": _add_processor,
}
"""The modules that hold registries, and what adds to each."""


def register() -> None:
    """Add VLV's classes to the registries that are imported, and to the others once they are."""
    for name, add in REGISTRIES.items():
        module = sys.modules.get(name)
        if module is not None and _is_complete(module):
            add(module)
    if not any(isinstance(finder, _Registration) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Registration())


def _is_complete(module: ModuleType) -> bool:
    """Whether a module has been executed, and not only begun."""
    return not getattr(module.__spec__, "_initializing", False)


class _Registration:
    """Adds to a registry after the module that holds it was imported.

    No subclass of `importlib.abc.MetaPathFinder`, whose import would double the time of vlv's.
    """

    def __init__(self) -> None:
        self._looking_for = ""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that adds to the registry."""
        if name not in REGISTRIES or name == self._looking_for:
            return None
        self._looking_for = name
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking_for = ""
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                REGISTRIES[name](module)

            # On this one loader, which belongs to this one module.
            loader.exec_module = execute_and_add
        return spec
