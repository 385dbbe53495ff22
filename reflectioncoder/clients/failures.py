"""What an error response of a server means: the kind of failure, the server's own words, and how long to wait.

Servers agree on HTTP statuses and on little else. The same error arrives as a status with a body, as status 200 with an
error object, or in the middle of a stream. docs/servers.md lists who sends what.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reflectioncoder.clients.messages import Reason

# statuses of errors that arrive without one, by the error's code or type
STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400, "badrequesterror": 400, "bad_request": 400, "invalid_argument": 400,
    "validation": 422, "validationexception": 400, "authentication_error": 401, "unauthenticated": 401,
    "permission_error": 403, "permission_denied": 403, "not_found_error": 404, "timeout": 408,
    "rate_limit_error": 429, "rate_limit_exceeded": 429, "resource_exhausted": 429, "throttlingexception": 429,
    "server_error": 500, "internal": 500, "internalservererror": 500, "unavailable": 503, "overloaded": 503,
    "overloaded_error": 503, "service_unavailable": 503,
}  # fmt: skip
FILTER_CODES = frozenset(
    "content_filter content_policy_violation responsibleaipolicyviolation data_inspection_failed moderation_blocked"
    " content_policy guardrail_intervened datainspectionfailed sensitive".split()
)
FILTER_WORDS = re.compile(
    r"flagged|moderation|content[ _](management )?policy|content[ _]filter|safety system|usage polic|guardrail"
    r"|inappropriate content|prohibited content|content exists risk|responsible ai"
)
TOO_LONG_CODES = frozenset(
    "context_length_exceeded exceed_context_size_error string_above_max_length token_limit_exceeded".split()
)
TOO_LONG_WORDS = re.compile(
    r"context (length|size|window|limit)|maximum model length|model's context|max_model_len"
    r"|(prompt|input|inputs|request|messages) (is|are|was) too (long|large)|input is too large"
    r"|`inputs` (tokens \+ `max_new_tokens` )?must (be|have)|request too large"
    r"|(input|prompt) tokens? (count )?.{0,40}exceed|max(_new|_completion)?_tokens must be at least 1, got -"
    r"|tokens['`\"]?( or .{0,30})? is too large|supports at most \d+ completion tokens|reduce the length"
)
# the number of tokens that a request may have
LIMIT = re.compile(
    r"(?:context (?:length|size|window)(?: is| of)?|must be <=|maximum model length of|available context size \("
    r"|supports at most|model with|max_model_len ?=)\s*(\d+)"
)
UNKNOWN_MODEL = frozenset(("model_not_found", "model_not_exist", "invalid_model", "deploymentnotfound"))
UNKNOWN_WORDS = re.compile(
    r"^(model not exist|invalid model)|not a valid model|no endpoints found|not found for api version"
)
BAD_KEY = re.compile(r"(api[ _]key not valid|(invalid|incorrect) api[ _]key)")
NO_MONEY = re.compile(r"insufficient (balance|credit|quota|fund)|out of credits|credit balance is too low")
LATER = re.compile(r"retry(?:delay| in| after)\W*([\d.]+)\s*(ms|s)", re.IGNORECASE)
MOST_WORDS = 1000  # characters of an error that are read


@dataclass(frozen=True)
class ServerFailure:
    """A server's error.

    Args:
        reason: its kind.
        status: HTTP status; that of the error object if the response had status 200; 0 if there is none.
        said: the server's own words; empty if there are none.
        wait: seconds that the server asks to wait; None if it does not.
        final: whether a filter refused this one request, so that no other is affected.
        limit: tokens that a request may have, if the request was too long and the server says it.
    """

    reason: Reason
    status: int
    said: str = ""
    wait: float | None = None
    final: bool = False
    limit: int | None = None


def failure_of(status: int, body: Any, headers: Mapping[str, str] | None = None) -> ServerFailure:
    """Classify an error response.

    Args:
        status: HTTP status; 200 if the error came in the body of a successful response.
        body: the body, parsed if it is JSON, otherwise text.
        headers: headers of the response.
    """
    said, codes = _words(body), {str(code).lower() for code in _codes(body)}
    if status < 300:
        numbers = [int(code) for code in codes if code.isdigit() and 400 <= int(code) < 600]
        status = (numbers or [STATUSES[code] for code in codes if code in STATUSES] or [0])[0]
    words, wait = said.lower(), _wait(headers or {}, body)
    of_content = status in (0, 400, 403, 422, 451)
    if of_content and (codes & FILTER_CODES or FILTER_WORDS.search(words)):
        return ServerFailure("refused", status, said, final=True)
    if status == 413 or codes & TOO_LONG_CODES or (status not in (401, 403) and TOO_LONG_WORDS.search(words)):
        limit = LIMIT.search(words)
        return ServerFailure("too_long", status, said, final=True, limit=int(limit[1]) if limit else None)
    reason = _reason(status, codes, words)
    return ServerFailure(reason, status, said, wait if reason in ("rate_limited", "server_error") else None)


def _reason(status: int, codes: set[str], words: str) -> Reason:
    if codes & UNKNOWN_MODEL or UNKNOWN_WORDS.search(words) or (status == 404 and "model" in words):
        return "unknown_model"
    if status == 402 or "insufficient_quota" in codes or (status in (0, 400, 403) and NO_MONEY.search(words)):
        return "quota"
    if status in (401, 403) or (status in (0, 400) and BAD_KEY.search(words)):
        return "authentication"
    if status == 429 or "throttlingexception" in codes:
        return "rate_limited"
    if status == 0 or status >= 500 or status in (408, 409, 424, 425, 499):
        return "server_error"
    if status in (404, 405) or 300 <= status < 400:
        return "wrong_url"
    return "refused"


def is_error(data: Any) -> bool:
    """Whether a parsed body is an error, whatever its status."""
    if isinstance(data, list):
        return bool(data) and is_error(data[0])
    if not isinstance(data, Mapping):
        return False
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return bool(data.get("error") or data.get("object") == "error" or data.get("type") == "error") or bool(
        isinstance(first, Mapping) and first.get("error")
    )


def _errors(body: Any) -> Iterator[Mapping[str, Any]]:
    """The error objects of a body, outermost first."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return
    choices = body.get("choices")
    inner = [body.get("error"), body.get("innererror"), choices[0] if isinstance(choices, list) and choices else None]
    if not choices:
        yield body
    for item in inner:
        if isinstance(item, Mapping):
            yield from _errors(item)


def _codes(body: Any) -> Iterator[str]:
    for error in _errors(body):
        for name in ("code", "type", "status", "error_type"):
            if isinstance(error.get(name), (str, int)):
                yield str(error[name])


def _words(body: Any) -> str:
    """The message of an error, in one line."""
    if isinstance(body, str):
        return " ".join(re.sub(r"<[^>]*>", " ", body[:MOST_WORDS]).split())  # often a page of HTML
    found: list[str] = []
    for error in _errors(body):
        given = [error.get(name) for name in ("message", "detail", "error", "errors", "msg")]
        metadata = error.get("metadata")
        if isinstance(metadata, Mapping):  # what a router passes on from the provider
            given += [metadata.get("raw"), metadata.get("reasons")]
        found += [text for item in given for text in _texts(item) if text not in found]
    return " ".join(": ".join(found).split())[:MOST_WORDS]


def _texts(item: Any) -> list[str]:
    if isinstance(item, str):
        return [item] if item.strip() else []
    if isinstance(item, list):
        return [text for inner in item[:5] for text in _texts(inner)]
    if isinstance(item, Mapping) and not {"message", "code"} & item.keys():  # FastAPI's and Mistral's lists of faults
        place = item.get("loc")
        where = ".".join(map(str, place)) if isinstance(place, list) else ""
        return [f"{where}: {text}" if where else text for key in ("msg", "detail") for text in _texts(item.get(key))]
    return []


def _wait(headers: Mapping[str, str], body: Any) -> float | None:
    """Seconds to wait from a `Retry-After` header (a number or a date) or from the error's text; None without both."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        pass
    found = LATER.search(str(body)[: 4 * MOST_WORDS])
    if found is None:
        return None
    try:
        return float(found[1].rstrip(".")) * (1e-3 if found[2].lower() == "ms" else 1.0)
    except ValueError:
        return None
