"""Facts about compiled programs: flops, collectives, cycles, chips."""
