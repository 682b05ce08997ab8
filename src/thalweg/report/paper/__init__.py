"""Figures and page of the study of the paper."""
