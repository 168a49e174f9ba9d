# SPDX-License-Identifier: BSD-3-Clause
"""Small files beside the recordings: spreadsheets and electrode positions."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import BinaryIO
from xml.sax.saxutils import escape

import numpy as np

from eegfast.datasets.montage import SEED_CHANNELS, positions_for

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
_DOC = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def write_xlsx(stream: BinaryIO, rows: Sequence[Sequence[str | int]]) -> None:
    """A workbook of one sheet, as small as Excel takes it, with its texts in a shared table."""
    texts: dict[str, int] = {}
    lines = []
    for r, row in enumerate(rows, start=1):
        cells = []
        for c, value in enumerate(row):
            place = f"{_letters(c)}{r}"
            if isinstance(value, str):
                index = texts.setdefault(value, len(texts))
                cells.append(f'<c r="{place}" t="s"><v>{index}</v></c>')
            else:
                cells.append(f'<c r="{place}"><v>{value}</v></c>')
        lines.append(f'<row r="{r}">{"".join(cells)}</row>')
    shared = "".join(f"<si><t>{escape(text)}</t></si>" for text in texts)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_TYPES}"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        + "".join(
            f'<Override PartName="/xl/{name}.xml" ContentType="{_KIND}.{kind}+xml"/>'
            for name, kind in (
                ("workbook", "sheet.main"),
                ("worksheets/sheet1", "worksheet"),
                ("sharedStrings", "sharedStrings"),
            )
        )
        + "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{_RELS}"><Relationship Id="rId1" '
        f'Type="{_DOC}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_DOC}"><sheets>'
        '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_RELS}">'
        f'<Relationship Id="rId1" Type="{_DOC}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="rId2" Type="{_DOC}/sharedStrings" Target="sharedStrings.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}'
        "</sheetData></worksheet>",
        "xl/sharedStrings.xml": f'<sst xmlns="{_MAIN}">{shared}</sst>',
    }
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as book:
        for name, text in parts.items():
            book.writestr(zipfile.ZipInfo(name), _XML + text, zipfile.ZIP_DEFLATED)


def write_channel_order(stream: BinaryIO) -> None:
    """SEED's 62 channels, a name a row."""
    write_xlsx(stream, [[name] for name in SEED_CHANNELS])


def write_locs(stream: BinaryIO) -> None:
    """SEED's 62 channels in EEGLAB's polar text: number, degrees from the nose, radius, name."""
    places = np.array(list(positions_for(SEED_CHANNELS).values()))
    places = places - (0.0, 0.0146, 0.0363)  # the middle of the ellipsoid they lie on
    right, front, up = (places / np.linalg.norm(places, axis=1, keepdims=True)).T
    angle = np.degrees(np.arctan2(right, front))
    radius = 0.5 - np.degrees(np.arcsin(up)) / 180
    for number, name in enumerate(SEED_CHANNELS):
        line = f"{number + 1}\t{angle[number]:.3f}\t{radius[number]:.5f}\t{name}\n"
        stream.write(line.encode("ascii"))


def _letters(column: int) -> str:
    """A, B ... Z, AA, AB ..."""
    head, tail = divmod(column, 26)
    return (_letters(head - 1) if head else "") + chr(ord("A") + tail)
