"""A model's source, asked in bounded time; where one of its implementations fails, the next is asked, and the reason is kept."""

from __future__ import annotations

from collections.abc import Mapping

from .._boundary import first_line
from ..importers._imported import Array, Source
from ..oracle import OracleEndedError, OracleError
from ._deadline import OverdueError, within

__all__ = ["Reference"]

_MANY = 10_000  # operators and weights; what is opened in the time of a run. ONNX Runtime takes 0.4 s for them, and 40 s for 200,000


class Reference:
    """A source and behind it its other implementations. `source` and `because` tell of the last run: which of them answered, and why
    it was not the first."""

    def __init__(self, source: Source, seconds: float) -> None:
        self._first = self.source = source
        self._seconds = seconds
        self._is_open = False
        self._following: Reference | None = None
        self.because = ""

    @property
    def is_first(self) -> bool:
        """Whether the implementation that answered the last run is the first of these."""
        return self.source is self._first

    def following(self) -> Reference | None:
        """The same model in the next implementation; None if there is none."""
        if self._following is None:
            other = self._first.another()
            self._following = Reference(other, self._seconds) if other is not None else None
        return self._following

    def run(self, inputs: Mapping[str, Array], *, insist: bool = True) -> dict[str, Array]:
        """The outputs. The next implementation is asked where this one does not take the model or ended itself; where it only refuses
        these inputs, which may be right, if they are to be run: `insist`.

        Raises OverdueError after the seconds for a run; else what the implementations said, as OracleError where there are two.
        """
        self.source, self.because = self._first, ""
        try:
            if not self._is_open:
                self._open()
            return within(self._seconds, lambda: self._first.run(inputs), self._first.interrupt)
        except OverdueError:
            raise
        except Exception as error:  # the framework's own complaint, of whatever class
            following = self.following()
            opening = isinstance(error, OracleError) and error.opening
            if following is None or not (insist or opening or isinstance(error, OracleEndedError)):
                raise
            self.because = first_line(error)
        try:
            result = following.run(inputs, insist=insist)
        except OverdueError:
            raise
        except Exception as error:
            both = opening and isinstance(error, OracleError) and error.opening
            raise OracleError(f"{self.because}; {first_line(error)}", opening=both) from error
        self.source = following.source
        self.because = "; ".join(each for each in (self.because, following.because) if each)
        return result

    def _open(self) -> None:
        seconds = self._seconds * max(1.0, self._first.parts() / _MANY)
        try:
            within(seconds, self._first.open, self._first.interrupt)
        except OverdueError:
            text = f"{self._first.reference} did not open the model within {seconds:g} s"
            raise OracleError(text, opening=True) from None
        self._is_open = True
