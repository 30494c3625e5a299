"""The host's side of a search: problems into slots, finished ones out."""
