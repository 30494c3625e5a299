"""Stub."""


def write_page(config):
    return config.output_dir
