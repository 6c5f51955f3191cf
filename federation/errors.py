"""The one tree of errors; the class says who acts.

    FedscoreError
    |- ConfigurationError   the operator corrects a file or a setting; nothing was changed
    |- DataError            the owner of a table corrects the table; nothing was changed
    |- ProtocolError        a peer broke the protocol: the round is aborted
    |- PrivacyError         the promise cannot be kept: refused, nothing was answered
    |  `- BudgetExhausted   the price does not fit what is left
    `- LedgerCorrupt        the record of what was spent cannot be trusted: the process stops

Messages name identifiers, rules, counts and digests. They never quote a record.
"""


class FedscoreError(Exception):
    """Any failure that fedscore reports to a person; `exit_code` follows sysexits(3)."""

    exit_code = 70  # EX_SOFTWARE


class ConfigurationError(FedscoreError):
    """A file or a setting is wrong. The operator acts."""

    exit_code = 78  # EX_CONFIG


class DataError(FedscoreError):
    """A table does not keep its contract. The owner of the table acts."""

    exit_code = 65  # EX_DATAERR


class ProtocolError(FedscoreError):
    """A peer sent what the protocol does not allow. The round is aborted."""

    exit_code = 76  # EX_PROTOCOL


class PrivacyError(FedscoreError):
    """Answering would break the promise. Refused before anything left."""

    exit_code = 77  # EX_NOPERM


class BudgetExhausted(PrivacyError):  # noqa: N818  the word that operators use
    """The price does not fit the budget. The institution decides, nobody else."""

    exit_code = 79  # one past the last code of sysexits: an exhausted privacy budget


class LedgerCorrupt(FedscoreError):  # noqa: N818  the word that operators use
    """The ledger contradicts itself or a head seen elsewhere. The process stops."""

    exit_code = 74  # EX_IOERR
