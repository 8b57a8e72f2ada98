"""CLIP as RTD needs it: the text tower, its weights' layouts, tokens, backbones and the saved encoder."""
