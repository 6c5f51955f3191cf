"""Questions and answers of local mode, with all that goes into them."""

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.asking import ASK_LABEL, asking_locally
from federation.door import LocalRelease
from federation.messages import AnswerHeader, Ask, numbers_digest
from federation.query import Question
from tests.attempts import secret
from tests.federations import KEY, flat_card, signed_plan, small_schema
from tests.networks import KINDS, plain_network
from tests.vectors.masking import as_said

NUMBERS = (0, 1, -1, 2**40 + 3, -(2**52), 2**63 - 1, -(2**63))


def local_answers() -> list[dict[str, Any]]:
    """Returns context and signature of questions, and digest and signature of answers to them."""
    schema = small_schema()
    card, network = flat_card(schema), plain_network(schema)
    asked = (
        ("a scorecard, local", Question.BINS, 0, None),
        ("a scorecard, local", Question.STEP, 2, card),
        ("a scorecard, local", Question.EVALUATION, 0, card),
        ("a network, local", Question.GRADIENT, 1, network),
        ("a network, local", Question.EVALUATION, 0, network),
    )
    found = []
    for place, (kind, question, round_, model) in enumerate(asked):
        plan = signed_plan(schema, **KINDS[kind])
        request = Ask(plan=plan.digest, question=question, round=round_, model=model, signature="")
        asking = asking_locally(plan, schema, request)
        numbers = LocalRelease(numbers=np.array(NUMBERS, dtype=np.int64)).encoded()
        identity = secret(f"identity {place}")
        header = AnswerHeader(
            institution=f"bank-{place:02d}",
            numbers=numbers_digest(numbers),
            ledger_sequence=2**40 + place,
            ledger_head="cd" * 32,
            signature=b"",
        ).signed(Ed25519PrivateKey.from_private_bytes(identity), asking.context)
        found.append(
            {
                "given": {
                    "plan": plan.digest,
                    "position": asking.position,
                    "model": as_said(model),
                    "question": question.value,
                    "columns": list(asking.query.columns),
                    "share_variance": asking.query.share_variance,
                    "coordinator": KEY.private_bytes_raw().hex(),
                    "institution": header.institution,
                    "identity": identity.hex(),
                    "numbers": [str(number) for number in NUMBERS],
                    "ledger": [header.ledger_sequence, header.ledger_head],
                },
                "expected": {
                    "context": asking.context.hex(),
                    "asked": canonical.sign(KEY, ASK_LABEL, asking.context),
                    "numbers": header.numbers.hex(),
                    "answered": header.signature.hex(),
                },
            }
        )
    return found
