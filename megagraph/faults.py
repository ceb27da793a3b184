"""What went wrong with a model call: whether to try again, and whom it concerns."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

from megagraph.errors import ModelError, UsageError

FaultKind = Literal["refused", "failed", "timeout", "key", "model", "quota", "context", "filter", "request"]
"""The first three can be tried again. `refused`: too much at once; `failed`: the provider's or the network's
fault. `key`, `model` and `quota` concern every call, the rest this one only."""

_AGAIN = ("refused", "failed", "timeout")
_EVERYONE = ("key", "model", "quota")
_TOO_LONG = (
    "context length",
    "context window",
    "context size",
    "context_length",
    "prompt is too long",
    "too many tokens",
)
_FILTERED = ("content_filter", "content management policy", "content policy", "responsible_ai", "safety system")

_REMEDIES: dict[FaultKind, str] = {
    "key": " (check OPENAI_API_KEY, and that the key may use this model)",
    "model": " (check the model's name and the base URL)",
    "quota": " (the account has no quota left)",
    "context": " (what this agent has read and written no longer fits into the model)",
    "filter": " (the provider's content filter)",
}


@dataclass(frozen=True)
class Fault:
    """One failed call, in one line."""

    kind: FaultKind
    reason: str
    retry_after: float | None = None

    @property
    def may_retry(self) -> bool:
        return self.kind in _AGAIN

    def error(self, label: str) -> ModelError:
        """The error of a call that failed for good."""
        return ModelError(
            f"{label}: {self.reason}{_REMEDIES.get(self.kind, '')}", kind=self.kind, everyone=self.kind in _EVERYONE
        )


def explain(error: Exception) -> Fault:
    """What an exception of a chat model means."""
    if isinstance(error, UsageError):
        return Fault("request", error.message)
    status = getattr(error, "status_code", None)
    text = " ".join(str(getattr(error, "message", None) or error).split())[:300]
    if isinstance(status, int):
        return _by_status(error, status, text)
    # By name, since the clients are imported only when they are used, and wrap one another's errors.
    names = {kind.__name__ for kind in type(error).__mro__}
    cause = " ".join(str(error.__cause__ or error).split())[:200]
    if names & {"APITimeoutError", "TimeoutError", "TimeoutException"}:
        return Fault("timeout", f"time-out or disconnect: {cause}")
    if names & {"APIConnectionError", "TransportError", "ClientError", "OSError", "JSONDecodeError"}:
        return Fault("failed", f"connection: {cause}")
    return Fault("request", f"{type(error).__name__}: {text}")


def _by_status(error: Exception, status: int, text: str) -> Fault:
    code, said, reason = str(getattr(error, "code", "")), text.lower(), f"{status}: {text}"
    if code == "insufficient_quota" or status == 402:
        return Fault("quota", reason)
    if status in (429, 503, 529):
        return Fault("refused", reason, _retry_after(error))
    if status in (408, 409) or status >= 500:
        return Fault("failed", reason, _retry_after(error))
    if status == 413 or code == "context_length_exceeded" or any(words in said for words in _TOO_LONG):
        return Fault("context", reason)
    if any(words in f"{code.lower()} {said}" for words in _FILTERED):
        return Fault("filter", reason)
    if status in (401, 403) or code == "invalid_api_key" or "api key not valid" in said:
        return Fault("key", reason)
    if status == 404 or code in ("model_not_found", "invalid_model", "model_not_exist"):
        return Fault("model", reason)
    return Fault("request", reason)


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that `Retry-After` asks for, which may be a number or a date; OpenAI has one in milliseconds too."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get(name) or "none") / unit
            return max(0.0, seconds) if math.isfinite(seconds) else None
    with contextlib.suppress(ValueError):
        until = parsedate_to_datetime(headers.get("retry-after") or "")
        # A date without a zone is one of UTC.
        return max(0.0, (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - time.time())
    return None


def _retry_after(error: Exception) -> float | None:
    seconds = getattr(error, "retry_after", None)
    if isinstance(seconds, int | float):
        return float(seconds)
    # The SDKs of the providers keep the whole response.
    headers = getattr(getattr(error, "response", None), "headers", None)
    return asked_to_wait(headers) if isinstance(headers, Mapping) else None
