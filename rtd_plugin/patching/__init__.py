"""Puts a tuned text encoder under a host's composed queries, in other people's processes and without editing the host.

Modules that run inside a host (`activation`, `bootstrap`, `functions`, `manifest`, `tally`) import the standard library
and wrapt alone; at the first composed query `tuned` brings what it needs: torch, numpy and safetensors.
"""
