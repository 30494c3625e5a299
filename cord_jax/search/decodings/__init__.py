"""The decodings: which nodes of the tree are extended next, and when a search is over."""
