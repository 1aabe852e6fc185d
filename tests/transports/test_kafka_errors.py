"""What an error of the broker is about: only a record's own fault may cost that record."""

from __future__ import annotations

import pytest
from aiokafka.errors import ProducerFenced, TopicAuthorizationFailedError, for_code

from streamrnn.transports.base import NotPermitted
from streamrnn.transports.kafka.errors import CONTENT, explained, kind_of
from streamrnn.transports.kafka.settings import KafkaSettings


def test_content_is_never_what_the_client_would_try_again() -> None:
    """It would do so for ever, and nothing would be left out."""
    for code in CONTENT:
        assert kind_of(code) == "content"
        assert not for_code(code).retriable


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (32, "content"), (10, "content"), (18, "content"), (87, "content"), (29, "permission"), (53, "permission"),
        (45, "fenced"), (47, "fenced"), (59, "fenced"), (-1, "connection"), (3, "connection"), (6, "connection"),
        (7, "connection"), (19, "connection"), (20, "connection"), (56, "connection"), (127, "connection"),
    ],
)  # fmt: skip
def test_what_the_codes_are_about(code: int, kind: str) -> None:
    assert kind_of(code) == kind


def test_permissions_and_lost_places_are_said_in_their_words() -> None:
    assert isinstance(explained(TopicAuthorizationFailedError("t"), KafkaSettings(), "sending"), NotPermitted)
    assert "taken this client's place" in str(explained(ProducerFenced(), KafkaSettings(), "sending"))
