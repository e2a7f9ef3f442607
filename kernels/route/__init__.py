"""The router: logits, choice of experts, and the tables it leads to."""

from .op import Choice, balance_loss, most_rows, route, route_tables, router_logits

__all__ = ["Choice", "balance_loss", "most_rows", "route", "route_tables", "router_logits"]
