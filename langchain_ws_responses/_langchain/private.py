"""The private names of langchain-openai and openai that this package uses, in one place.

No other module imports a private name of either. `tests/unit_tests/langchain/test_private_names.py` is the
canary: it fails, and names the installed versions, when one of these is gone or behaves differently.

- `construct_responses_api_input`: what a message looks like on the wire is decided by langchain-openai
  alone, and a delta must agree with the full send.
- `chunk_of_event`: what an event of a stream looks like as a chunk, likewise.
- `within_chunk_timeout`: bounds the waits of an async stream that has moved to HTTP, with the error and the log of one
  that began there.
- `handle_bad_request`, `handle_api_error`: raise LangChain's own errors (`ContextOverflowError` and the like) from
  those of openai.
- `construct_type`: builds an object of a type that the installed SDK does not know just as the SDK would.
- `parse_response`: langchain-openai calls `responses.parse` for a pydantic `response_format`; over a
  socket there is no HTTP response that the SDK's own `parse` could read.
- `text_format_param`: the other half of `parse`, the `text.format` that a pydantic class turns into.
"""

from __future__ import annotations

from langchain_openai.chat_models._client_utils import (
    _astream_with_chunk_timeout as within_chunk_timeout,
)
from langchain_openai.chat_models.base import (
    _construct_responses_api_input as construct_responses_api_input,
)
from langchain_openai.chat_models.base import (
    _convert_responses_chunk_to_generation_chunk as chunk_of_event,
)
from langchain_openai.chat_models.base import (
    _handle_openai_api_error as handle_api_error,
)
from langchain_openai.chat_models.base import (
    _handle_openai_bad_request as handle_bad_request,
)
from openai._models import construct_type
from openai.lib._parsing._responses import parse_response
from openai.lib._parsing._responses import type_to_text_format_param as text_format_param

__all__ = [
    "chunk_of_event",
    "construct_responses_api_input",
    "construct_type",
    "handle_api_error",
    "handle_bad_request",
    "parse_response",
    "text_format_param",
    "within_chunk_timeout",
]
