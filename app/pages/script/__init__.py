"""Holds the one script that Streamlit runs, apart: Streamlit puts its folder first on `sys.path`."""
