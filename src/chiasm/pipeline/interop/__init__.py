"""Models that others trained: folders in the layouts of Hugging Face and open_clip, opened and written."""

from chiasm.pipeline.interop.importing import open_pipeline

__all__ = ["open_pipeline"]
