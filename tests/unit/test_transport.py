"""How often a carrier is asked whether something has come."""

import pytest

from federation.transport import pause_seconds


@pytest.mark.parametrize(
    ("asking", "quiet", "pause"),
    [
        (0.0, 0.0, 0.02),
        (0.01, 0.0, 0.08),
        (0.01, 3.0, 0.08),
        (0.01, 60.0, 1.0),
        (0.1, 0.0, 0.8),
        (0.01, 86_400.0, 2.0),
        (30.0, 0.0, 2.0),
    ],
)
def test_who_is_slow_or_has_nothing_is_asked_less_often(asking, quiet, pause):
    assert pause_seconds(asking=asking, quiet=quiet) == pytest.approx(pause)
