"""Text as the teachers' shared currency: prompts, vocabularies, where steps end."""
