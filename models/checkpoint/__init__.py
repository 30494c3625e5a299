"""Hugging Face directories to sharded arrays, and back."""
