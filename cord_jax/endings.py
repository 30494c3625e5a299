"""What ends a step (`docs/method.md`, sections 3.3 and 3.6): the names that rows, records and rules have in common."""

# All that may end a proposal.
ENDINGS = ("marker", "think_end", "eos", "cap", "budget")
# The teacher's own end of the reasoning.
CLOSING = ("think_end", "eos")
# After these a trace is complete.
CONCLUDING = (*CLOSING, "budget")
