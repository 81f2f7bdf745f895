"""Scene cuts of a video, found in its small frames while they pass."""

from __future__ import annotations

from typing import Any

from tiw_fsm.data.intake.source import Picture, needing


class Cuts:
    """Where scenes begin in frames that are shown one by one.

    PySceneDetect's adaptive detector: a camera that moves fast is no cut, for its frames all differ alike.

    Args:
        fps: frames per second that are shown.

    Raises:
        UsageProblem: PySceneDetect is not installed.
    """

    def __init__(self, fps: float) -> None:
        with needing("finding scene cuts", "cuts"):
            from scenedetect import AdaptiveDetector, FrameTimecode
        self._detector = AdaptiveDetector()
        self._timecode: Any = FrameTimecode
        self._fps = fps
        self._shown = 0
        self.rows: set[int] = set()
        """Numbers of the frames that begin a scene, as far as was seen; a cut is known some frames after it."""

    def show(self, picture: Picture) -> None:
        """The next frame, RGB."""
        at = self._timecode(self._shown, self._fps)
        self.rows.update(cut.frame_num for cut in self._detector.process_frame(at, picture[..., ::-1]))
        self._shown += 1
