"""Text triplets from captions by a language model."""
