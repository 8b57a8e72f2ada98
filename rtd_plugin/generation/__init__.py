"""Text triplets from captions, by rules or with a language model, and statistics of their conditions.

An optional part: nothing but `rtd_plugin.workflows.generate` imports it.
"""
