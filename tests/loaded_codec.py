"""Load the compiled code of the codec: processes that are forked afterwards have it.

Nothing here may set the number of torch's threads, as the encoding of a model does. This makes a pool of threads, which
a forked process does not have, and which its own threads then miss.
"""

import torch

from tenreo.codec.encode import EncodedWeight, encode, refined
from tenreo.codec.position_coding import decode_positions, encode_positions
from tenreo.codec.rate_distortion import trellis_quantize

WEIGHT = torch.randn(64, 64)


def store(encoded: EncodedWeight) -> None:
    """Encode and decode the positions of a weight."""
    columns, length = len(encoded.positions), encoded.length
    row = max(1, columns // 64)
    stream = encode_positions(encoded.positions, length, row, encoded.memory, encoded.basis)
    decode_positions(stream, columns, length, row, encoded.basis)


store(refined(WEIGHT, encode(WEIGHT, 4, 512), 1))
store(trellis_quantize(WEIGHT, 0.01))
