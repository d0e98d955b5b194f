"""The private names of langchain-openai and openai that this package uses, in one place.

No other module imports a private name of either. `tests/unit_tests/langchain/test_private_names.py` is the
canary: it fails, and names the installed versions, when one of these is gone or behaves differently.

- `construct_responses_api_input`: what a message looks like on the wire is decided by langchain-openai
  alone, and a delta must agree with the full send.
- `construct_type`: builds an object of a type that the installed SDK does not know just as the SDK would.
- `parse_response`: langchain-openai calls `responses.parse` for a pydantic `response_format`; over a
  socket there is no HTTP response that the SDK's own `parse` could read.
- `text_format_param`: the other half of `parse`, the `text.format` that a pydantic class turns into.
"""

from __future__ import annotations

from langchain_openai.chat_models.base import (
    _construct_responses_api_input as construct_responses_api_input,
)
from openai._models import construct_type
from openai.lib._parsing._responses import parse_response
from openai.lib._parsing._responses import type_to_text_format_param as text_format_param

__all__ = [
    "construct_responses_api_input",
    "construct_type",
    "parse_response",
    "text_format_param",
]
