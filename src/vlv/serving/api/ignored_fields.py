"""Fields of OpenAI's API and of other servers that are accepted and have no effect here.

A header of the answer names those that request something.
"""

from typing import Any

from vlv.serving.api.schemas import Strict


class IgnoredFields(Strict):
    """Fields of OpenAI and of other servers that have no effect here.

    The default of each requests nothing, as null does; `_NO_REQUEST` has further such values.
    """

    repeat_last_n: Any = 0
    length_penalty: Any = 1
    no_repeat_ngram_size: Any = 0
    bad_words_ids: Any = []
    top_a: Any = 0
    typical_p: Any = 1
    tfs: Any = 1
    tfs_z: Any = 1
    mirostat: Any = 0
    mirostat_mode: Any = 0
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    dynatemp_range: Any = 0
    dynatemp_exponent: Any = 1
    xtc_probability: Any = 0
    xtc_threshold: Any = None
    dry_multiplier: Any = 0
    dry_base: Any = None
    dry_allowed_length: Any = None
    dry_sequence_breakers: Any = None
    best_of: Any = 1
    use_beam_search: Any = False
    early_stopping: Any = False
    logit_bias: Any = {}
    stop_token_ids: Any = []
    include_stop_str_in_output: Any = False
    ignore_eos: Any = False
    skip_special_tokens: Any = True
    spaces_between_special_tokens: Any = True
    echo: Any = False
    add_generation_prompt: Any = True
    continue_final_message: Any = False
    add_special_tokens: Any = False
    chat_template: Any = None
    chat_template_kwargs: Any = {}
    mm_processor_kwargs: Any = {}
    truncate_prompt_tokens: Any = None
    cache_prompt: Any = None
    keep_alive: Any = None
    num_ctx: Any = None
    num_predict: Any = None
    options: Any = {}
    priority: Any = 0
    request_id: Any = None
    tools: Any = []
    functions: Any = []
    parallel_tool_calls: Any = True
    audio: Any = None
    prediction: Any = None
    store: Any = False
    metadata: Any = {}
    moderation: Any = None
    service_tier: Any = "auto"
    reasoning_effort: Any = "none"
    reasoning: Any = None
    include_reasoning: Any = False
    enable_thinking: Any = False
    thinking: Any = None
    verbosity: Any = "medium"
    web_search_options: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    safety_identifier: Any = None
    user: Any = None

    def ignored(self) -> list[str]:
        """Names of the fields that request something that is not done."""
        return [
            name
            for name, field in IgnoredFields.model_fields.items()
            if name not in _METADATA
            and (value := getattr(self, name)) is not None
            and value not in (field.default, *_NO_REQUEST.get(name, ()))
        ]


_NO_REQUEST: dict[str, list[Any]] = {
    "typical_p": [0],
    "parallel_tool_calls": [False],
    "spaces_between_special_tokens": [False],
    "add_generation_prompt": [False],
    "service_tier": ["default"],
    "cache_prompt": [True, False],
}
# Clients do not expect these to change an answer.
_METADATA = {"user", "safety_identifier", "prompt_cache_key", "request_id"}
