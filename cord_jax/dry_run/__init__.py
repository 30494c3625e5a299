"""Whether a job fits a machine and how long it takes, without the machine."""
