"""Text triplets: sources, checks and storage."""
