"""Text triplets from captions, by rules or with a language model, and statistics of their conditions.

A plugin: the other rooms do not import it.
"""
