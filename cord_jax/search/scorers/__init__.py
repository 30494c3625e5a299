"""The selectors: each gives every candidate a number, the more the better."""
