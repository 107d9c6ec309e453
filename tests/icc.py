"""ICC profiles made by hand, so that tests know what colours they mean without asking the library under test.

Layout by ICC.1:2001. A matrix profile (a display) and a table of the corners (a press).
"""

from __future__ import annotations

import struct
from itertools import product

import numpy as np

# colorants under D50, columns red, green, blue
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
D50 = np.array([0.9642, 1.0, 0.8249])
GAMMA = 2.2


def display_profile(colorants: np.ndarray = DISPLAY_P3) -> bytes:
    """An RGB profile with these primaries and a gamma of 2.2."""
    curve = b"curv" + struct.pack(">4xIH2x", 1, round(GAMMA * 256))
    tags = {b"wtpt": _xyz(D50)} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags |= {name: _xyz(colorants[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    curve = b"curv" + struct.pack(">4xIH2x", 1, round(gamma * 256))
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(D50), b"kTRC": curve})


def press_profile(lab_of: dict[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """A CMYK profile: CIELAB of each of the 16 corners (0 or 1 for cyan, magenta, yellow, black)."""
    ramp = bytes(range(256))
    table = b"".join(
        bytes(
            (round(lab_of[corner][0] * 2.55), round(lab_of[corner][1]) + 128, round(lab_of[corner][2]) + 128)
        )
        for corner in product((0, 1), repeat=4)
    )
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + struct.pack(">4xBBBx", 4, 3, 2) + identity + ramp * 4 + table + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(D50), b"A2B0": lut})


def srgb_of_xyz(xyz: np.ndarray) -> tuple[int, ...]:
    """8-bit sRGB of a D50 XYZ, what lies outside clipped."""
    linear = np.clip(np.linalg.solve(SRGB, xyz), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return tuple(round(float(v)) for v in 255 * encoded)


def srgb_of_display(colour: tuple[int, ...], colorants: np.ndarray = DISPLAY_P3) -> tuple[int, ...]:
    return srgb_of_xyz(colorants @ (np.array(colour) / 255) ** GAMMA)


def srgb_of_lab(lab: tuple[float, float, float]) -> tuple[int, ...]:
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    return srgb_of_xyz(D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)))


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *(round(float(v) * 65536) for v in values))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    description = b"made by hand\0"
    tags = {
        b"desc": b"desc" + struct.pack(">4xI", len(description)) + description + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
    } | tags
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI", at + len(body), 0x0240_0000) + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:] + bytes(48)
    assert len(head) == 128
    return head + struct.pack(">I", len(tags)) + table + body
