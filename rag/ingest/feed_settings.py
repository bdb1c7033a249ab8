"""What a node wants of its feeds: the part `feeds` of its settings."""

from __future__ import annotations

from pydantic import Field, field_validator

from federation import settings
from federation.language import _
from rag.ingest.tongue import primary
from rag.ingest.topics import unique


class FeedSettings(settings.Settings):
    """The part `feeds`.

    Attributes:
        topics: what the owner cares about; entries about a topic are marked with it.
        languages: two letters each; entries in others are left out. None named: all are kept.
        max_items: of one feed at one time; further ones are cut off.
        allow_loopback: for tests: feeds of this machine are fetched too, on any port.
    """

    topics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    max_items: int = Field(default=500, ge=1, le=10_000)
    allow_loopback: bool = False

    @field_validator("languages")
    @classmethod
    def _languages_have_two_letters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if primary(each) != each:
                raise ValueError(_("'{code}' is no code such as es or en").format(code=each))
        return unique(value)
