"""Encodes a host's composed queries with a tuned text encoder, in the host's processes and without editing the host.

What runs in every Python under a patch (`bootstrap`, `import_hook`, `usage_log`) imports a few modules of the standard
library. When a composition point is imported, `active_patch` follows, standard library too; at the first composed query
`host_encoder` imports torch. `host_code` lists the modules that run inside a host: they are written in Python 3.8.
"""
