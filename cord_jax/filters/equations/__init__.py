"""Equations between plain numbers as they stand in running text."""
