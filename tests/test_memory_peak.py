"""What a process says of its own memory."""

from __future__ import annotations

import ctypes
from typing import Any

from speakeasy.training.memory import footprint_peak, peak_process_bytes


def test_the_peak_holds_what_was_written() -> None:
    before = peak_process_bytes()
    block = bytearray(b"x") * (before + (64 << 20))
    assert peak_process_bytes() >= len(block)


def test_a_mac_s_footprint_is_the_twenty_ninth_number_behind_the_uuid() -> None:
    asked = []

    def answers(process: int, flavor: int, place: Any) -> int:
        asked.append((process, flavor))
        numbers = ctypes.cast(place, ctypes.POINTER(ctypes.c_uint64))
        for index in range(2 + 35):  # rusage_info_v4 has 35 numbers
            numbers[index] = 1000 + index
        return 0

    assert footprint_peak(answers, 7) == 1000 + 2 + 28
    assert asked == [(7, 4)]
    assert footprint_peak(lambda *_: -1, 7) == 0
