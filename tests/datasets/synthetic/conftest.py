# SPDX-License-Identifier: BSD-3-Clause
import re
import zipfile
from xml.etree import ElementTree

import pytest

_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.fixture
def read_xlsx():
    """Rows of the first sheet, as Excel would show them."""

    def read(path):
        with zipfile.ZipFile(path) as book:
            assert book.testzip() is None
            strings = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
            sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
            for part in book.namelist():
                ElementTree.fromstring(book.read(part))
        texts = [item.findtext(f"{_SHEET}t") for item in strings]
        rows = []
        for row in sheet.iter(f"{_SHEET}row"):
            cells = list(row.iter(f"{_SHEET}c"))
            places = [re.fullmatch(r"([A-Z]+)(\d+)", cell.get("r")).groups() for cell in cells]
            assert {number for _, number in places} == {row.get("r")}
            assert [letters for letters, _ in places] == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")[
                : len(places)
            ]
            values = [cell.findtext(f"{_SHEET}v") for cell in cells]
            shared = [cell.get("t") == "s" for cell in cells]
            rows.append(
                [texts[int(v)] if s else int(v) for v, s in zip(values, shared, strict=True)]
            )
        return rows

    return read
