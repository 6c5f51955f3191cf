"""Makes the private directory of a new institution: keys, ledger, records, configuration, card."""

import json
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from clients.configuration import DaemonConfiguration, load_daemon_configuration
from clients.ledger import Ledger
from clients.premises import Premises
from clients.records import Records
from clients.withdrawals import Withdrawals
from federation.card import Card, card_toml
from fedscore import files
from fedscore.machine import system_clock, system_entropy

CONFIGURATION_FILE: Final = "institution.toml"
CARD_FILE: Final = "card.toml"
STATE: Final = "state"

_CONFIGURATION: Final = """\
# The institution and what it allows. Paths are relative to this file. Variables like FEDSCORE_STATE
# override where things are, and never what is decided here.
id = {id}                         # as plans invite it
title = {title}                   # for people
most_people = {most_people}       # public; never the number of people itself
table = {table}                   # Parquet or CSV, or a table of PostgreSQL: see below
not_held = {not_held}             # features of the schema that the table does not have

# For PostgreSQL: table = "schema.table", and a file that only its owner may read (chmod 600) with
# host=... dbname=... user=... password=... sslmode=verify-full
# postgresql_connection = "postgresql.conninfo"

# "person": each plan waits for `fedscore institution approve`. "automatic": the policy is enough.
approval = "person"

# The federation, as its coordinator describes it: public figures and files.
federation = {federation}
salt = {salt}
held_out_fraction = {held_out_fraction}
schema = "schema.toml"
roster = "roster.toml"            # signed by the coordinator; the newest after each admission
coordinator_address = {address}
root_certificates = "ca.pem"      # nobody else's certificates are trusted

# Private: keys, ledger, records. Losing it is losing the budget's account; never copy it back.
state = "state"
# identity_key = "/run/credentials/fedscore/identity.key"  # keys in files elsewhere, chmod 600;
# node_key = "/run/credentials/fedscore/node.key"          # moved there from the state
# snapshots = "/fast/disk"        # where the table waits in codes; private, of nobody else

# What the table calls columns, where its names differ from the schema's:
# [columns]
# income = "inc_gross_m"

# Who agreed; without this section everybody did. One row without consent leaves a person out, a
# missing value is none, and any other than true, false, 1 and 0 is an error. Texts are listed:
# [consent]
# column = "may_train"
# given = ["yes"]
# refused = ["no"]

# Rows that were older on the day of the snapshot, or have no date, are left out:
# [retention]
# column = "updated_on"
# days = 730

# /livez, /readyz and /metrics, for programs on this machine only.
# health_address = "127.0.0.1:9464"

[policy]
# What this institution's people decide. A plan that breaks one line is refused.
coordinator = {coordinator}       # the only key whose plans are considered
approved_peers = "roster"         # all in our roster; or ["bank-b", ...]: nobody else beside us
purposes = {purposes}
modes = ["joint"]                 # and "local", "institution": other promises, see PROTOCOL.md
# schemas = ["..."]               # digests of the data contracts that people have read

least_participants = 3            # n: invited, ourselves included
least_quorum = 3                  # m: answers in every total that is opened
least_threshold = 3               # t: institutions that open a total together
least_colluders = 1               # c: institutions that may conspire with the coordinator
least_audited_share = 0.0         # of the answers that institutions compute again, 0 to 1
longest_validity_days = 31        # a plan's price is set aside as long
rounds_per_hour = 3600            # questions answered within any 60 minutes

# Privacy of each person at this institution; trained and held-out people have a budget each.
delta = {delta}
epsilon_per_plan = {epsilon_per_plan}
epsilon_per_year = {epsilon_per_year}         # any 365 days
epsilon_lifetime = {epsilon_lifetime}         # never renewed
"""


def make_institution(directory: Path, **settings: object) -> tuple[DaemonConfiguration, Card]:
    """Makes the directory of a new institution, whole or not at all.

    Args:
        directory: does not exist yet.
        settings: the fields of the configuration that this institution decides.

    Returns:
        Its configuration, and the card that its coordinator is handed.

    Raises:
        ConfigurationError: the directory exists, a setting is out of range, or the disk refuses.
        PrivacyError: a limit of the policy is none.
    """
    with files.new_directory(directory) as draft:
        written = {name: _in_toml(value) for name, value in settings.items()}
        (draft / CONFIGURATION_FILE).write_text(_CONFIGURATION.format(**written))
        configuration = load_daemon_configuration(draft / CONFIGURATION_FILE, {})
        premises = Premises(draft / STATE)
        for private in (
            premises.directory,
            premises.decisions,
            premises.releases,
            premises.snapshots,
        ):
            private.mkdir(mode=0o700)
        identity = Ed25519PrivateKey.from_private_bytes(system_entropy())
        files.write_private(premises.identity, files.key_pem(identity))
        node = generate_private_key(SECP384R1())
        files.write_private(
            premises.node,
            node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        )
        Withdrawals.create(premises.withdrawals, system_entropy())
        Ledger.create(premises.ledger, system_clock).close()
        Records.create(premises.records).close()
        card = Card.of(
            federation=configuration.federation,
            institution=configuration.id,
            identity=identity,
            node=node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        )
        (draft / CARD_FILE).write_text(card_toml(card))
    return load_daemon_configuration(directory / CONFIGURATION_FILE, {}), card


def _in_toml(value: object) -> str:
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
