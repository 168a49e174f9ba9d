# SPDX-License-Identifier: BSD-3-Clause
"""Protocols by name: ``create("seed-9-6")``."""

from __future__ import annotations

from eegfast.protocols import published, splits
from eegfast.protocols.protocol import Protocol

_PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol
    for protocol in (
        published.SEEDTrials,
        published.SEEDIVTrials,
        published.WithinSessionTrialKFold,
        published.WithinSessionWindows,
        published.RandomWindows,
        published.PooledTrialKFold,
        published.SubjectHoldout,
        splits.SubjectKFold,
        splits.LeaveOneSubjectOut,
        splits.LeaveOneSessionOut,
        splits.CrossSession,
    )
}


def names() -> list[str]:
    """Names that :func:`create` knows, sorted.

    Returns
    -------
    list of str
        The names.
    """
    return sorted(_PROTOCOLS)


def create(name: str, **options) -> Protocol:
    """Make a protocol by name.

    Parameters
    ----------
    name : str
        One of :func:`names`; case does not matter.
    **options
        Arguments of the protocol's class, such as ``seed``, ``n_splits``, ``allow_leakage``.

    Returns
    -------
    Protocol
        The protocol.

    Raises
    ------
    ValueError
        If no protocol has that name, or it has no such option.

    Examples
    --------
    >>> create("subject-k-fold", n_splits=5)
    SubjectKFold(n_splits=5, seed=0, stratify=False)
    """
    try:
        protocol = _PROTOCOLS[name.lower()]
    except KeyError:
        raise ValueError(
            f"create: no protocol is named {name!r}; known: {', '.join(names())}"
        ) from None
    try:
        return protocol(**options)
    except TypeError as error:
        raise ValueError(f"create: {name}: {error}") from None
