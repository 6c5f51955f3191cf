"""What other systems pay for adding vectors in secret, measured by calling their own code.

* Flower's SecAgg+ (flwr): the primitives that its client mod and its server workflow call, in the
  order in which they call them, with every other institution as a neighbour.
* CKKS as NVFlare uses it (TenSEAL): its builder's defaults. All its clients share one secret key,
  so one client with the coordinator reads everybody: another promise, shown for its price.

Left out on both sides: key agreement when uploading, quantising, and messages. Only this file
imports the peers; where one is not installed, its figures are left out.
"""

import base64
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.entropy import SeededEntropy
from federation.errors import ProtocolError

try:
    from flwr.common import bytes_to_ndarray, ndarray_to_bytes
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
        encrypt,
        generate_shared_key,
    )
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        factor_combine,
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
    )
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
        generate_key_pairs,
        private_key_to_bytes,
        public_key_to_bytes,
    )

    FLOWER: str | None = version("flwr")
except ImportError:
    FLOWER = None
try:
    import tenseal

    TENSEAL: str | None = version("tenseal")
except (ImportError, PackageNotFoundError):
    TENSEAL = None

MODULUS: Final = 2**32
"""Flower's default: its words hold 32 bits, each sent as 64."""
_SLOTS: Final = 4096
_SECRETS: Final = 5
"""Rebuilt and timed of each total's; rebuilding another takes as long."""


class FlowerUpload(msgspec.Struct, frozen=True, kw_only=True):
    """CPU milliseconds of one client's upload.

    Attributes:
        share: making shares of the seed and of the private key.
        seal: encrypting them for each neighbour.
        mask: making masks, adding them, writing the result.
        nbytes: of vector and ciphertexts.
    """

    share: float
    seal: float
    mask: float
    nbytes: int

    @property
    def total(self) -> float:
        """Milliseconds of all of it."""
        return self.share + self.seal + self.mask


class FlowerOpening(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds of the server for one total.

    Attributes:
        parameters: numbers in the sum.
        dropped: clients that never uploaded.
        add: adding the masked vectors.
        combine: rebuilding secrets from shares; a few are timed, and stand for the others.
        unmask: making masks anew and subtracting them.
    """

    parameters: int
    dropped: int
    add: float
    combine: float
    unmask: float

    @property
    def total(self) -> float:
        """Seconds of all of it."""
        return self.add + self.combine + self.unmask


class Ckks(msgspec.Struct, frozen=True, kw_only=True):
    """CPU milliseconds for one vector of one client.

    Attributes:
        parameters: numbers in it.
        encrypt: and write.
        add: read, and add to the sum; at the server.
        decrypt: the sum; at each client.
        nbytes: of the vector.
    """

    parameters: int
    encrypt: float
    add: float
    decrypt: float
    nbytes: int


class FlowerClient:
    """A client of Flower's SecAgg+ that has its keys and its neighbours' shared secrets."""

    def __init__(self, institutions: int, threshold: int) -> None:
        """Makes keys."""
        entropy = SeededEntropy("flower")
        self._institutions = institutions
        self._threshold = threshold
        self._seed = entropy()
        self._secret = private_key_to_bytes(generate_key_pairs()[0])
        self._shared = [base64.urlsafe_b64encode(entropy()) for _ in range(institutions - 1)]

    def upload(self, quantized: NDArray[np.int32]) -> FlowerUpload:
        """Returns what one upload takes: `_share_keys`, then `_collect_masked_vectors`.

        Args:
            quantized: int32[parameters], as `quantize` returns it.
        """
        clock = Milliseconds()
        of_seed = create_shares(self._seed, self._threshold, self._institutions)
        of_secret = create_shares(self._secret, self._threshold, self._institutions)
        share = clock.lap()
        sealed = [
            encrypt(key, share_keys_plaintext_concat(0, peer, of_seed[peer], of_secret[peer]))
            for peer, key in enumerate(self._shared, start=1)
        ]
        seal = clock.lap()
        vector = factor_combine(1, [quantized])
        shapes = [one.shape for one in vector]
        vector = parameters_addition(vector, pseudo_rand_gen(self._seed, MODULUS, shapes))
        for peer, key in enumerate(self._shared, start=1):
            mask = pseudo_rand_gen(key, MODULUS, shapes)
            added = peer % 2 == 0  # about half of them are, whatever the names are
            vector = (parameters_addition if added else parameters_subtraction)(vector, mask)
        written = [ndarray_to_bytes(one) for one in parameters_mod(vector, MODULUS)]
        return FlowerUpload(
            share=share,
            seal=seal,
            mask=clock.lap(),
            nbytes=sum(map(len, [*written, *sealed])),
        )


def flower_opening(
    parameters: int, institutions: int, threshold: int, dropped: int
) -> FlowerOpening:
    """Returns what Flower's server takes for one total, after it turned out to be the sum.

    Masks of pairs who both uploaded cancel in the sum; they are left out of the vectors here.

    Args:
        parameters: numbers in the sum.
        institutions: n.
        threshold: t.
        dropped: 0 or 1.

    Raises:
        ProtocolError: the total is not the sum.
    """
    entropy = SeededEntropy("flower server")
    seeds = [entropy() for _ in range(institutions)]
    gone = institutions // 2
    here = [place for place in range(institutions) if not (dropped and place == gone)]
    secret, public = generate_key_pairs()
    pairs = {place: generate_key_pairs() for place in here} if dropped else {}
    publics = {place: public_key_to_bytes(pair[1]) for place, pair in pairs.items()}
    shapes: list[tuple[int, ...]] = [(parameters,)]
    clock = Milliseconds()
    add = combine = unmask = 0.0
    total = expected = [np.zeros(parameters, dtype=np.int64)]
    for place in here:
        vector = [np.random.default_rng(place).integers(0, 2**20, parameters)]
        expected = parameters_addition(expected, vector)
        vector = parameters_addition(vector, pseudo_rand_gen(seeds[place], MODULUS, shapes))
        if dropped:
            mask = pseudo_rand_gen(generate_shared_key(pairs[place][0], public), MODULUS, shapes)
            vector = (parameters_addition if place > gone else parameters_subtraction)(vector, mask)
        sent = [ndarray_to_bytes(one) for one in parameters_mod(vector, MODULUS)]
        clock.lap()
        total = parameters_addition(total, [bytes_to_ndarray(one) for one in sent])
        add += clock.lap()
    total = parameters_mod(total, MODULUS)
    for place in here:
        known = seeds[place]
        if place < _SECRETS:
            shares = create_shares(known, threshold, institutions)[: len(here)]
            clock.lap()
            known = combine_shares(shares)
            combine += clock.lap() * len(here) / min(_SECRETS, len(here))
        clock.lap()
        total = parameters_subtraction(total, pseudo_rand_gen(known, MODULUS, shapes))
        unmask += clock.lap()
    if dropped:
        shares = create_shares(private_key_to_bytes(secret), threshold, institutions)[: len(here)]
        clock.lap()
        known = combine_shares(shares)
        combine += clock.lap()
        for place in here:
            key = generate_shared_key(
                bytes_to_private_key(known), bytes_to_public_key(publics[place])
            )
            mask = pseudo_rand_gen(key, MODULUS, shapes)
            total = (parameters_addition if gone > place else parameters_subtraction)(total, mask)
        unmask += clock.lap()
    if not np.array_equal(parameters_mod(total, MODULUS)[0], expected[0]):
        raise ProtocolError("Flower's masks did not cancel: this does not call it as it is meant.")
    return FlowerOpening(
        parameters=parameters,
        dropped=dropped,
        add=add / 1000,
        combine=combine / 1000,
        unmask=unmask / 1000,
    )


def ckks(parameters: int) -> Ckks:
    """Returns what NVFlare's defaults take: degree 8192, moduli of 60, 40, 40 bits, scale 2^40.

    Each ciphertext holds 4,096 numbers; one secret key encrypts and decrypts.

    Raises:
        ProtocolError: the sum is not decrypted.
    """
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=2 * _SLOTS,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2**40
    values = np.random.default_rng(0).normal(size=parameters)
    parts = [values[start : start + _SLOTS] for start in range(0, parameters, _SLOTS)]
    clock = Milliseconds()
    sent = [tenseal.ckks_vector(context, part).serialize() for part in parts]
    encrypting = clock.lap()
    sums = [tenseal.ckks_vector_from(context, one) for one in sent]
    clock.lap()
    for place, one in enumerate(sent):
        sums[place] += tenseal.ckks_vector_from(context, one)
    adding = clock.lap()
    found = np.concatenate([one.decrypt() for one in sums])
    decrypting = clock.lap()
    if not np.allclose(found, 2 * values, atol=1e-5):
        raise ProtocolError("CKKS did not give the sum: this does not call it as it is meant.")
    return Ckks(
        parameters=parameters,
        encrypt=encrypting,
        add=adding,
        decrypt=decrypting,
        nbytes=sum(map(len, sent)),
    )


class Milliseconds:
    """CPU time of this process, all its threads, since the last look."""

    def __init__(self) -> None:
        """Looks at the clock for the first time."""
        self._last = time.process_time()

    def lap(self) -> float:
        """Returns how long it was, and starts anew."""
        last, self._last = self._last, time.process_time()
        return (self._last - last) * 1000
