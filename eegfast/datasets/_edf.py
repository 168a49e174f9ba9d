# SPDX-License-Identifier: BSD-3-Clause
"""What the header of an EDF/BDF file says about each signal and MNE does not pass on: its unit and
its own rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MNE_KNOWS = ("uV", "\u00b5V", "\u03bcV", "\x83\xcaV", "mV", "V")
_OTHER_SPELLINGS = {
    "uv": 1.0,
    "\u00b5v": 1.0,
    "\u03bcv": 1.0,
    "microv": 1.0,
    "mv": 1e3,
    "nv": 1e-3,
    "v": 1e6,
}


@dataclass(frozen=True)
class Signal:
    """One signal of the file."""

    label: str
    unit: str
    sfreq: float

    @property
    def microvolts(self) -> float | None:
        """Factor from the number MNE returns to microvolts; None if the signal is no voltage.

        A blank unit is taken for microvolts.
        """
        if not self.unit:
            return 1.0
        if self.unit in _MNE_KNOWS:
            return 1e6
        return _OTHER_SPELLINGS.get(self.unit.casefold())


@dataclass(frozen=True)
class Header:
    """The signals of the file (without annotations), and whether its records may have gaps between
    them."""

    signals: list[Signal]
    discontinuous: bool


def read_header(path: Path) -> Header:
    """Read the header of an EDF or BDF file.

    Raises
    ------
    ValueError
        If the header is cut off or is no EDF/BDF header.
    """
    with path.open("rb") as stream:
        fixed = stream.read(256)
        try:
            record_s = float(fixed[244:252])
            n_signals = int(fixed[252:256])
        except ValueError:
            raise ValueError("expected an EDF/BDF header at its start") from None
        rest = stream.read(256 * n_signals)
    if n_signals < 1 or len(rest) < 256 * n_signals:
        raise ValueError(f"expected a header with {n_signals} signals, the file ends inside it")

    def texts(offset: int, width: int) -> list[str]:
        start = offset * n_signals
        fields = (rest[start + i * width : start + (i + 1) * width] for i in range(n_signals))
        return [field.decode("latin-1").strip(" \0") for field in fields]

    try:
        counts = [int(text) for text in texts(216, 8)]
    except ValueError:
        raise ValueError("expected the number of samples of each signal in its header") from None
    signals = [
        Signal(label, unit, count / record_s if record_s > 0 else 0.0)
        for label, unit, count in zip(texts(0, 16), texts(96, 8), counts, strict=True)
        if label not in ("EDF Annotations", "BDF Annotations")
    ]
    return Header(signals, fixed[192:197] in (b"EDF+D", b"BDF+D"))
