"""What a worker says: checked, for a worker whose memory is damaged may say anything."""

from __future__ import annotations

from typing import Any

from upscaled_protocol.lines import decode_line


def read_message(line: bytes) -> dict[str, Any] | None:
    """What a worker says, as far as a supervisor relies on it; None where it is no message."""
    try:
        fields = decode_line(line)
    except ValueError:
        return None
    match fields:
        case (
            {"type": "result", "job_id": str()}
            | {"type": "progress", "job_id": str(), "progress": int() | float(), "stage": str()}
            | {"type": "error", "job_id": str() | None, "code": str()}
            | {"type": "health", "models_loaded": list()}
            | {
                "type": "status",
                "message": "ready",
                "methods": list(),
                "lanes": dict(),
                "pid": int(),
            }
            | {"type": "status", "message": "loading_models" | "degraded" | "draining" | "stopped"}
        ):
            return dict(fields)
    return None
