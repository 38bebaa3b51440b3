"""tailbudget: where every millisecond of an LLM request went, and whether it was within budget.

The names below are what a service needs; they come from `tailbudget.instrument`.
"""
