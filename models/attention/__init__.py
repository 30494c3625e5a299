"""Every attention there is, and the keys and values that it reads."""
