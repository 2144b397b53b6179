"""Densities of training data in which some examples have several images or none."""

from dataclasses import replace

import numpy as np

from chiasm.core.types import Example
from chiasm.pipeline.domain_fitting import fit_domain
from chiasm.pipeline.pipeline import Pipeline


def test_texts_alone_are_no_images(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against vectors of zeros in the density, and a part of texts alone that stops the fit."""
    texts = [replace(example, id=f"text {example.id}", inputs={}) for example in examples]
    fitted = fit_domain(pipeline, examples + texts, examples + texts)
    plain = fit_domain(pipeline, examples, examples)
    assert fitted.images is not None and plain.images is not None
    found, expected = fitted.images.arrays(), plain.images.arrays()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(np.sort(np.ravel(found[name])), np.sort(np.ravel(value)), rtol=1e-3, atol=1e-5)
    assert fit_domain(pipeline, texts, texts).images is None


def test_several_images_count_as_one_example(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a fit that stops at a tuple."""
    images = [example.inputs["image"] for example in examples]
    pairs = [replace(one, inputs={"image": (image, image)}) for one, image in zip(examples, images, strict=True)]
    fitted, plain = fit_domain(pipeline, pairs, pairs), fit_domain(pipeline, examples, examples)
    assert fitted.images is not None and plain.images is not None
    np.testing.assert_allclose(fitted.images.limit, plain.images.limit, rtol=1e-3)
