"""Messages as conversations hold them: with TRL's keys, and with ShareGPT's."""

from __future__ import annotations

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def message(role: str, content: object = "text", **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def spoken(role: str, text: str) -> dict[str, str]:
    """A message with the keys of ShareGPT."""
    return {"from": role, "value": text}
