"""Readings: from runs to tables and figures."""
