"""Whole jobs as TOML recipes over the public API, and the runner that goes through their stages."""
