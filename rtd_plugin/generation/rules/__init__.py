"""Text triplets from captions by rules: parse, edit, phrase."""
