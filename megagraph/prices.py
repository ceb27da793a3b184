"""What a model call costs in US dollars: by the caller's own prices, or by those that genai-prices keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from megagraph.errors import UsageError

MILLION = 1_000_000

Prices = Mapping[str, tuple[float, float]]
"""US dollars for a million input tokens and a million output tokens, by the model's name."""


@dataclass(frozen=True)
class Price:
    """The price of one model, in US dollars for a million tokens."""

    input: float
    output: float
    exact: Callable[[int, int, int], float] | None = None
    """The cost by input, output and cached tokens, where there is more to it than two numbers."""

    def expected(self, input_tokens: float, output_tokens: float) -> float:
        """What a call of about this size costs, in US dollars."""
        return (input_tokens * self.input + output_tokens * self.output) / MILLION

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """What a call has cost, in US dollars. `cached_tokens` are among the input tokens."""
        if self.exact is None:
            return self.expected(input_tokens, output_tokens)
        return self.exact(input_tokens, output_tokens, cached_tokens)


FREE = Price(0.0, 0.0)


def parse_prices(values: Mapping[str, object]) -> Prices:
    """Prices from a scenario or a caller. Raises `UsageError` naming what is wrong."""
    prices = {}
    for model, value in values.items():
        pair = value if isinstance(value, list | tuple) else ()
        numbers = [x for x in pair if isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < float("inf")]
        if len(pair) != 2 or len(numbers) != 2:
            raise UsageError(
                f"the price of `{model}` does not fit.",
                "Give two numbers, US dollars for a million input tokens and for a million output tokens.",
            )
        prices[model] = (float(numbers[0]), float(numbers[1]))
    return prices


def find_price(label: str, *, base_url: str = "", prices: Prices | None = None) -> Price | None:
    """The price of the model `label`, such as `openai:gpt-5-mini`; None where nobody knows it.

    `prices` go first, by the label or by the model's name alone. A server on one's own network has no list price.
    """
    provider, _, named = label.partition(":") if label.startswith("openai:") else ("", "", label)
    name = named.partition("?")[0]
    for key in (label, label.partition("?")[0], name):
        if prices and key in prices:
            return Price(*prices[key])
    if label == "rehearsal":
        return FREE
    if base_url and _is_local(base_url):
        return None
    return _listed(name, provider, base_url)


def _listed(name: str, provider: str, base_url: str) -> Price | None:
    # Takes a quarter of a second to import.
    from genai_prices import Usage, calc_price

    def dollars(input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        usage = Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=min(cached_tokens, input_tokens),
        )
        if base_url:
            found = calc_price(usage, name, provider_api_url=base_url)
        else:
            found = calc_price(usage, name, provider_id=provider or None)
        return float(found.total_price)

    try:
        # By the thousand, since some models charge more for a long prompt.
        return Price(dollars(1000, 0) * 1000, dollars(0, 1000) * 1000, dollars)
    except LookupError:
        return None


def _is_local(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return "." not in host or re.fullmatch(r"[\d.]+", host) is not None
