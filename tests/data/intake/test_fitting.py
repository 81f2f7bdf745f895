"""Pictures of any size and proportions in square frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiw_fsm.data.intake.fitting import fit, resized

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_each_pixel_is_the_mean_of_what_it_covers(height: int, width: int, high: int, wide: int) -> None:
    """Against the plain way: every pixel made as many as there are in both sizes, then averaged in blocks."""
    source = picture(height, width)
    fine = source.repeat(high, axis=0).repeat(wide, axis=1).astype(float)
    expected = fine.reshape(high, height, wide, width, 3).mean((1, 3))
    assert np.abs(resized(source, high, wide) - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_enlarged_by_a_whole_factor_a_pixel_stays_a_pixel(factor: int) -> None:
    source = picture(16, 16)
    assert (resized(source, 16 * factor, 16 * factor) == source.repeat(factor, 0).repeat(factor, 1)).all()


def test_what_of_a_picture_is_kept() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :10], wide[:, 10:30], wide[:, 30:] = 50, 100, 200
    assert (fit(wide, 20, "crop") == 100).all()
    padded = fit(wide, 20, "pad")
    assert (padded[:5].max(), padded[15:].max(), set(np.unique(padded[5:15]))) == (0, 0, {50, 100, 200})
    assert set(np.unique(fit(wide, 20, "stretch"))) == {50, 100, 200}


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["crop", "pad", "stretch"]))
@settings(max_examples=40, deadline=None)
def test_whatever_the_proportions_the_frame_is_square(height: int, width: int, how: str) -> None:
    assert fit(picture(height, width), 24, how).shape == (24, 24, 3)  # type: ignore[arg-type]
