"""What a draft of a schema leaves open: marks that a person removes, prompts to be answered."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

TO_CONFIRM: Final = "TO CONFIRM"
"""How a draft marks what a person must decide. A text that starts with it does not load."""


class Prompt(StrEnum):
    """What a draft asks a person where it can suggest nothing: as an answer it does not load."""

    NAME = "a name for this contract"
    PERSON_KEY = "the column that names a person"
    OUTCOME = "the outcome column"
    WINDOW = "when the outcome was observed"
    REASON = "what a person is told if this costs points"
    UNIT = "the unit of the values"


_PROMPTS: Final = frozenset(Prompt)


def places_to_confirm(value: object, place: str) -> Iterator[str]:
    """Yields the places of a decoded TOML document that a person has not decided.

    Args:
        value: the document, or a part of it.
        place: where that part stands; empty for the whole.
    """
    if isinstance(value, str) and (value.startswith(TO_CONFIRM) or value.strip() in _PROMPTS):
        yield place
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from places_to_confirm(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for position, inner in enumerate(value, start=1):
            name = inner.get("name") if isinstance(inner, dict) else None
            yield from places_to_confirm(inner, f"{place} {name if name else position}")
