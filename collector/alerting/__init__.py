"""Alerts: what is judged on a timer and written to the table `alerts`."""

from .sag import GRACE_S, AlertChange, update_sag_alerts

__all__ = ["GRACE_S", "AlertChange", "update_sag_alerts"]
