"""Programs that a model has written, run apart from everything: see docs/sandbox.md."""

from palaestra.language.sandbox.sandbox import Job, Sandbox, Verdict

__all__ = ["Job", "Sandbox", "Verdict"]
