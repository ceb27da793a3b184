"""Text that can be kept: JSON may hold half a surrogate pair, and UTF-8, which files and databases hold, may not."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_HALF = re.compile("[\ud800-\udfff]")


def whole(value: Any) -> Any:
    """The value with each half of a surrogate pair replaced, in its strings and in those of its lists and dicts."""
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def to_json(value: Any) -> bytes:
    """The value as JSON in UTF-8. What is none of JSON's types is written as text, half a surrogate pair as `?`."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):
        return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")


def from_json(data: bytes) -> Any:
    """What JSON means, also where it holds half a surrogate pair. Raises `ValueError` where it is none."""
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)
