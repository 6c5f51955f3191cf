"""The worst that missing entries of a ledger can have been, when a header shows that they existed.

Nothing is known of a missing entry but that it once obeyed the rules of the ledger. The header does
not say how many are missing either: later ones may have been signed and kept back. So it is the
limits that bound them, and not their number. With L and Y the lifetime and the yearly limit, the
missing entries have spent, of each population,

    at most L,                        for the totals never exceed it;
    at most Y * max(1, ceil(t / W)),  if none is older than t seconds, W being 365 days:

what is spent within any closed window of W never exceeds Y, and that many windows cover t. The
smaller of the two is charged; without the second only L is. Assumed is what only people can know:

- the limits were at no time higher than those that are given;
- the time since which entries are missing is true: this copy of the ledger was made then, or later.
  Where the ledger's own time is ahead of the clock nobody is believed, and L is charged;
- the clock was not ahead while they were written. A charge of L does not depend on any clock.

A sequence that never was costs its charge and nothing else: the charge does not grow with it.
"""

from federation.canonical import Digest
from federation.errors import ConfigurationError
from federation.privacy.ledger_entries import Recovered, require_time
from federation.privacy.ledger_rules import WINDOW_SECONDS, Account, Limits
from federation.privacy.units import BudgetUnits, Price

UNKNOWN_SINCE = 0
"""Nobody can say since when entries are missing."""


def recovery(
    account: Account,
    now: int,
    *,
    seen_sequence: int,
    seen_head: Digest,
    missing_since: int,
    limits: Limits,
) -> Recovered:
    """Returns the entry that charges what is missing at its worst.

    Args:
        account: the fold of the entries that are there.
        now: what the clock says, in seconds since 1970.
        seen_sequence: of a header that this institution signed, whose entry is missing.
        seen_head: of that header.
        missing_since: seconds since 1970 from which on entries may be missing, or UNKNOWN_SINCE.
        limits: the highest that the institution had since then.

    Raises:
        ConfigurationError: the clock is out of its range, or `missing_since` lies ahead of it.
        PrivacyError: sequence or head are malformed, or the limits allow nothing.
    """
    require_time(now)
    require_time(missing_since)
    if missing_since > now:
        raise ConfigurationError("Entries cannot be missing since a time that is still to come.")
    worst = limits.lifetime
    if missing_since != UNKNOWN_SINCE and account.latest_time <= now:
        windows = max(1, -(-(now - missing_since) // WINDOW_SECONDS))
        worst = BudgetUnits(min(worst, limits.yearly * windows))
    return Recovered(
        seen_sequence=seen_sequence,
        seen_head=seen_head,
        missing_since=missing_since,
        price=Price(trained=worst, held_out=worst),
    )
