"""A VLV as a pipeline of diffusers: an image, or its embeddings z, in, and an image out.

It is the pipeline of the model's family with one component more, the VLV encoder. Its other
components have their usual names, so that other pipelines of the family take them over.
"""

from vlv.integrations.diffusers.pipelines import VLVPipeline, pipeline_class

__all__ = ["VLVPipeline", "pipeline_class"]
