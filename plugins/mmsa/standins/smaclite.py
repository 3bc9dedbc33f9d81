"""Stands in for smaclite, which is on no package registry and which upstream imports whatever the task."""
