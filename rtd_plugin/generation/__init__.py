"""Text triplets from captions: by rule, or with a language model."""
