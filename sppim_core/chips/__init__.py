"""Chip tables that come with the package; see sppim_core.chip."""
