"""Entry points, one file per job: `python -m launch.JOB --help`. They parse flags and call `cord_jax`."""
