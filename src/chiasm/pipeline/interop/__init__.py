"""Import and export of model folders in the layouts of Hugging Face and open_clip."""

from chiasm.pipeline.interop.importing import open_pipeline

__all__ = ["open_pipeline"]
