"""Which requests were run in place the last time, so that a transport may answer the next ones like them where they arrive."""

from __future__ import annotations

# Of a request, and of the outputs of its answer: reading more takes longer than other clients should wait.
MOST_BYTES = 1 << 16
_MOST = 4096


class Quick:
    """Of which models and versions messages of which length, in powers of two. Any thread may call anything."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str | None, int]] = set()

    def has(self, model: str, version: str | None, received: int) -> bool:
        """Whether the last one like a message of so many bytes was run in place."""
        return (model, version, received.bit_length()) in self._known

    def note(self, model: str, version: str | None, received: int, sent: int) -> None:
        """A message of so many bytes was run in place, and gave so many bytes of outputs."""
        if sent > MOST_BYTES:
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known.add((model, version, received.bit_length()))

    def forget(self, model: str, version: str | None, received: int) -> None:
        """One could not be run in place."""
        self._known.discard((model, version, received.bit_length()))
