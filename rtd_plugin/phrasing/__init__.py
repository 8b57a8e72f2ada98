"""A grammar of conditions as people write them: patterns for each kind of request, registers, slips of the fingers."""
