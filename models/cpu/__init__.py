"""Rearrangements that only CPUs gain from; `models.execution` says when they are used."""

from models.cpu.argmax import argmax as argmax
from models.cpu.leading import Leading as Leading
from models.cpu.once import computed_once as computed_once
