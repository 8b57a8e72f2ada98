"""Text triplets out of captions by rule: parse, edit, phrase."""
