"""The step-wise search as one jitted program; nothing in it but the exchange touches the host."""
