"""The version of netkit. It is defined here so that a checkout need not be installed; pyproject.toml reads it."""

VERSION = "0.2.0"
