"""The version of netkit, which a checkout knows without an installation. pyproject.toml reads it."""

VERSION = "0.1.0"
