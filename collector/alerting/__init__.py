"""Alerts: what is judged on a timer and written to the table `alerts`."""

from .burn import BurnAlerts
from .diagnoses import DiagnosisAlerts
from .duty import Duty
from .notify import Notifier
from .objectives import ObjectiveFiles
from .sag import GRACE_S, AlertChange, SagAlerts, update_sag_alerts

__all__ = [
    "GRACE_S",
    "AlertChange",
    "BurnAlerts",
    "DiagnosisAlerts",
    "Duty",
    "Notifier",
    "ObjectiveFiles",
    "SagAlerts",
    "update_sag_alerts",
]
