"""For schemathesis: images where a field needs one, and what a schema cannot express.

Loaded by its command line (SCHEMATHESIS_HOOKS).
"""

import json

import schemathesis
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.serving.conftest import data_url, scene

# Requests that fit the description and are refused with 400 all the same, by their codes.
UNSAID = {
    "invalid_z": "the base64 of embeddings has the bytes of its shape, and the model's width",
    "too_many_kept": "there are so many embeddings, and so many fit the text tower",
    "too_many_steps": "a model has so many steps as it was trained with",
    "too_many_captions": "images times answers are at most 16",
    "unsupported_schema": "a caption fills few schemas",
    "caption_too_long": "what is verified is counted in sentences and tokens",
}
# Of one field against another a schema says nothing, nor of numbers and depths where any value is
# taken since it is ignored.
UNSAID_SENTENCES = (
    "`min_new_tokens` must not be above `max_new_tokens`.",
    "The body is not JSON (an integer of",
    "The body is JSON of more than 64 levels",
    # Ollama takes a request without images as a question whether the model is loaded.
    "The messages must contain an image, in `images`.",
    "The request must contain an image, in `images`.",
)

schemathesis.openapi.format("image-url", st.sampled_from([data_url(scene(at)) for at in range(4)]))


@schemathesis.hook
def before_call(ctx, case, kwargs) -> None:  # type: ignore[no-untyped-def]
    """Few sampling steps test the same and take less time."""
    body = case.body
    if case.meta.generation.mode.is_positive and isinstance(body, dict):
        steps = body.get("num_inference_steps")
        if isinstance(steps, int | float) and 4 < steps <= 1000:
            case.body = {**body, "num_inference_steps": 4}


@schemathesis.check
def accepts_what_it_describes(ctx, response, case) -> bool | None:  # type: ignore[no-untyped-def]
    """As `positive_data_acceptance`, but for what a schema cannot express."""
    if response.status_code == 400:
        body = json.loads(response.content)
        error = {**body, "message": body["error"]} if "code" in body else body["error"]
        if error["code"] in UNSAID or error["message"].startswith(UNSAID_SENTENCES):
            return None
    return positive_data_acceptance(ctx, response, case)
