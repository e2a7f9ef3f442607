"""Choice of experts and the tables it leads to."""

from .op import route, route_tables

__all__ = ["route", "route_tables"]
