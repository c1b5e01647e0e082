"""Where the tensors of a file come from, and a digest of them. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tenreo.errors import printable
from tenreo.files.layout import TensorRecord
from tenreo.files.values import Fields

SOURCE = "tenreo.source"  # key of the metadata
_MOST_TEXT = 1000  # characters


@dataclass(frozen=True)
class Provenance:
    """The origin of the tensors of a file.

    Attributes:
        tenreo: version of tenreo that compressed them.
        digest: `state_digest` of the dense tensors.
        name: name of the file or folder that contained them; empty if unknown.
        license: license of the weights; empty if unknown.
    """

    tenreo: str
    digest: str
    name: str = ""
    license: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the fields that are known as plain values for JSON."""
        values = {"tenreo": self.tenreo, "sha256": self.digest, "name": self.name, "license": self.license}
        return {key: printable(value, _MOST_TEXT) for key, value in values.items() if value}

    @classmethod
    def from_dict(cls, values: Any) -> Provenance:
        """Read the fields of a file. Raise ValueError if a field is invalid."""
        read = Fields(values)
        texts = (read.text(k, _MOST_TEXT + 100) if read.has(k) else "" for k in ("tenreo", "sha256", "name", "license"))
        return cls(*texts)


def state_digest(tensors: Iterable[tuple[str, TensorRecord, str]]) -> str:
    """Return the SHA-256 of lines of the name, dtype, shape and SHA-256 of every tensor, sorted by name.

    >>> state_digest([("a", TensorRecord("F32", (2, 3)), sha256(bytes(24)).hexdigest())])[:8]
    '87bad9a8'
    """
    lines = sorted(f"{name} {each.dtype} {'x'.join(map(str, each.shape))} {own}\n" for name, each, own in tensors)
    return sha256("".join(lines).encode()).hexdigest()
