"""The style sheet of report.html."""

from __future__ import annotations

from penstock.report.theme import CSS_VARIABLES

__all__ = ["PAGE_STYLE"]

PAGE_STYLE = (
    CSS_VARIABLES
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-font-smoothing: antialiased;
  font: 15px/1.55 ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 56px 28px 96px; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 18px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 6px; font-weight: 650; }
header p, section > p { color: var(--faint); margin: 0; max-width: 66ch; }
section { margin-top: 52px; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 0 0 4px; font-weight: 620; }
h3 { font-size: 13px; color: var(--faint); font-weight: 600; margin: 18px 0 4px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 22px 28px;
  margin: 26px 0 0; }
.facts dt { color: var(--faint); font-size: 12.5px; }
.facts dd { margin: 0; font-size: 22px; font-weight: 620; letter-spacing: -0.015em;
  font-variant-numeric: tabular-nums; }
.facts div:first-child dd { color: var(--accent); }
figure { margin: 18px 0 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figcaption { color: var(--faint); font-size: 13px; margin-top: 8px; max-width: 70ch; }
.scroll { overflow-x: auto; margin-top: 16px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--rule); font-weight: 400;
  vertical-align: top; }
thead th { color: var(--faint); font-size: 12.5px; border-bottom-color: var(--faint); }
tbody th { white-space: nowrap; }
td:last-child, th:last-child { padding-right: 0; color: var(--faint); }
td.n:last-child { color: inherit; }
.n { text-align: right; white-space: nowrap; }
td small { color: var(--faint); font-size: 11.5px; }
.bar { width: 22%; min-width: 90px; vertical-align: middle; }
.bar i { display: block; height: 8px; background: var(--accent); border-radius: 2px; min-width: 1px; }
pre { font: 12.5px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; margin: 0; }
.sample { background: var(--panel); border-left: 3px solid var(--accent); padding: 16px 18px;
  margin-top: 16px;  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: 12.5px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; color: var(--ink); }
details { border-bottom: 1px solid var(--rule); }
section > p + details { margin-top: 14px; border-top: 1px solid var(--rule); }
summary { cursor: pointer; padding: 8px 0; font: 12.5px ui-monospace, Menlo, Consolas, monospace; }
details p { color: var(--faint); margin: 0 0 8px 16px; }
details pre { padding: 2px 0 14px 16px; color: var(--faint); overflow-x: auto; }
.record { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 0 40px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 0 40px; }
@media print { body { font-size: 11px; } section { break-inside: avoid; margin-top: 28px; } }
"""
)
