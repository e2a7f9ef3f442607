"""Choice of experts and the tables it leads to."""

from .op import Choice, route, route_tables

__all__ = ["Choice", "route", "route_tables"]
