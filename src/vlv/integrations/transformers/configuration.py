"""What `config.json` of a model folder says to transformers: that it is a VLV."""

from transformers import PreTrainedConfig


class VLVPreTrainedConfig(PreTrainedConfig):
    """The config of a VLV for transformers.

    It holds nothing of the model: each component has its own config in its own folder, and
    `vlv.json` says which there are.
    """

    model_type = "vlv"
