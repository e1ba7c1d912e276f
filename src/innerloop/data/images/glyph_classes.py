"""Which characters are classes, and to which script each belongs."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font

FACES = (
    "DejaVuSans.ttf",
    "DejaVuSerif.ttf",
    "STIXGeneral.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "STIXGeneralBolIta.ttf",
)
"""Font files that matplotlib ships; classes are compared in the first four, the upright ones."""

SCRIPTS = {
    "LATIN": "Latin",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "GREEK": "Greek",
    "COPTIC": "Coptic",
    "ARMENIAN": "Armenian",
    "GEORGIAN": "Georgian",
    "HEBREW": "Hebrew",
    "LAO": "Lao",
    "NKO": "N'Ko",
    "OGHAM": "Ogham",
    "OLD ITALIC": "Old Italic",
    "TIFINAGH": "Tifinagh",
    "LISU": "Lisu",
    "CANADIAN SYLLABICS": "Canadian Syllabics",
    "MATHEMATICAL FRAKTUR": "Fraktur",
    "MATHEMATICAL SCRIPT": "Script",
    "MATHEMATICAL DOUBLE-STRUCK": "Double-struck",
}
"""How the Unicode name of a letter begins, and its script."""

SYMBOLS = (
    (0x0021, 0x00BF, "Digits and punctuation"),
    (0x2010, 0x205E, "Digits and punctuation"),
    (0x20A0, 0x20CF, "Currency"),
    (0x2100, 0x214F, "Letterlike"),
    (0x2190, 0x21FF, "Arrows"),
    (0x27F0, 0x27FF, "Arrows"),
    (0x2900, 0x297F, "Arrows"),
    (0x2B00, 0x2B4F, "Arrows"),
    (0x2200, 0x22FF, "Operators"),
    (0x27C0, 0x27EF, "Operators"),
    (0x2980, 0x2AFF, "Operators"),
    (0x2300, 0x23FF, "Technical"),
    (0x2400, 0x245F, "Technical"),
    (0x2460, 0x24FF, "Enclosed"),
    (0x2500, 0x259F, "Box drawing"),
    (0x25A0, 0x25FF, "Geometric shapes"),
    (0x2600, 0x26FF, "Pictograms"),
    (0x1F000, 0x1F0FF, "Game pieces"),
    (0x1F300, 0x1F6FF, "Pictograms"),
    (0x2700, 0x27BF, "Dingbats"),
    (0x2800, 0x28FF, "Braille"),
    (0x4DC0, 0x4DFF, "Hexagrams"),
    (0x1D300, 0x1D356, "Tetragrams"),
)
"""Ranges of code points that are no letters: first, last, group."""

VALIDATION_SCRIPTS = frozenset({"Greek", "Coptic", "Armenian"})
TEST_SCRIPTS = frozenset(
    {
        "Georgian",
        "Hebrew",
        "Lao",
        "N'Ko",
        "Ogham",
        "Old Italic",
        "Tifinagh",
        "Lisu",
        "Canadian Syllabics",
    }
)
"""Writing systems kept for testing; all but these and the validation scripts are for training."""


def script(character: str) -> str | None:
    """The group of a character; None for what is no class: marks, spaces, letters with accents."""
    name, category = unicodedata.name(character, ""), unicodedata.category(character)
    if not name or category[0] not in "LNPS":
        return None
    mapping = unicodedata.decomposition(character)
    if mapping and not mapping.startswith(("<font>", "<circle>")):
        return None
    if category[0] == "L":
        if category == "Lm":
            return None
        for start, group in SCRIPTS.items():
            if name.startswith(start + " "):
                return group
    for first, last, group in SYMBOLS:
        if first <= ord(character) <= last:
            return group
    return None


def font_folder() -> Path:
    """The folder of the font files that come with matplotlib."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def characters(faces: Iterable[Path]) -> dict[str, list[str]]:
    """Characters that are classes, each with the file names of the faces that have it.

    Training scripts come first, so that of two characters that look alike (Latin A, Greek Alpha)
    the one seen in training is kept; within a script they come in the order of their code points.
    """
    found: dict[str, list[str]] = {}
    for face in faces:
        for code, glyph in FT2Font(str(face)).get_charmap().items():
            if glyph != 0:
                found.setdefault(chr(code), []).append(face.name)
    groups = {character: script(character) for character in found}
    return {
        character: found[character]
        for character in sorted(found, key=lambda c: (_rank(groups[c]), ord(c)))
        if groups[character] is not None
    }


def _rank(group: str | None) -> int:
    """Position in the order of preference: letters, symbols, validation scripts, test scripts."""
    if group in TEST_SCRIPTS:
        return 3
    if group in VALIDATION_SCRIPTS:
        return 2
    return 0 if group in SCRIPTS.values() else 1
