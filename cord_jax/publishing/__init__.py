"""Publishing: finished runs of `launch.synthesize` as a directory that Hugging Face `datasets` loads."""
