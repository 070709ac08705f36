"""The version of netkit, also for a checkout that is not installed. pyproject.toml reads it."""

VERSION = "0.1.0"
