"""Trident under rtd-plugin."""
